// Normalisation of the last dimension.
import { UserError } from '../base/errors.ts';
import { checkOptions, type KeysOf } from '../base/options.ts';
import { atLeast0 } from '../base/kinds.ts';
import type { Tensor } from '../graph/tensor.ts';
import { layerNorm } from '../graph/ops/reduce/layerNorm.ts';
import { rmsNorm } from '../graph/ops/reduce/rmsNorm.ts';
import { Parameter } from '../trace/parameter.ts';
import { use } from '../trace/trace.ts';

export interface NormOptions {
  /** Added to the mean square, or to the variance; default 1e-5. */
  readonly eps?: number;
}
const KEYS: KeysOf<NormOptions> = { eps: atLeast0 };

/** x / sqrt(mean(x^2) + eps) * gain (Zhang & Sennrich 2019): [..., width] -> [..., width]. */
export class RMSNorm {
  readonly gain: Parameter; // [width]
  readonly #eps: number;
  constructor(width: number, options: NormOptions = {}) {
    checkOptions('RMSNorm', options, KEYS);
    this.gain = new Parameter([width], { kind: 'constant', value: 1 }, { role: 'gain' });
    this.#eps = options.eps ?? 1e-5;
  }

  forward(x: Tensor): Tensor {
    return rmsNorm(x, use(x, this.gain), this.#eps);
  }
}

/** (x - mean) / sqrt(variance + eps) * gain + bias (Ba et al. 2016): [..., width] -> [..., width]. width is at
 * least 2: one element has no variance. */
export class LayerNorm {
  readonly gain: Parameter; // [width]
  readonly bias: Parameter; // [width]
  readonly #eps: number;
  constructor(width: number, options: NormOptions = {}) {
    checkOptions('LayerNorm', options, KEYS);
    if (width === 1) {
      throw new UserError('LayerNorm: one element has no variance, and would become the bias', 'a width of at least 2');
    }
    this.gain = new Parameter([width], { kind: 'constant', value: 1 }, { role: 'gain' });
    this.bias = new Parameter([width], { kind: 'constant', value: 0 }, { role: 'bias' });
    this.#eps = options.eps ?? 1e-5;
  }

  forward(x: Tensor): Tensor {
    return layerNorm(x, use(x, this.gain), use(x, this.bias), this.#eps);
  }
}
