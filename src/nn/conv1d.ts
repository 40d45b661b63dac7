// Convolution of sequences as a layer.
import { UserError } from '../base/errors.ts';
import { fixedCopy } from '../base/fixed.ts';
import { checkOptions, type KeysOf } from '../base/options.ts';
import { aFlag, atLeast0 } from '../base/kinds.ts';
import type { Tensor } from '../graph/tensor.ts';
import { add } from '../graph/ops/elementwise/add.ts';
import { conv1d, CONV1D_KEYS, type Conv1dOptions as OpOptions } from '../graph/ops/image/conv1d.ts';
import { Parameter } from '../trace/parameter.ts';
import { use } from '../trace/trace.ts';

export interface Conv1dOptions extends OpOptions {
  /** Adds a bias; default true. Before a normalisation, which removes it, set it to false. */
  readonly bias?: boolean;
  /** Standard deviation of the starting weights; default sqrt(2 / fan-in) (He et al. 2015, equation 10). */
  readonly std?: number;
}

const KEYS: KeysOf<Conv1dOptions> = { ...CONV1D_KEYS, bias: aFlag, std: atLeast0 };

/**
 * Sequences [N, time, inputs] -> [N, time', outputs], with windows of `taps` places; N may vary at run time. Padding is
 * 0 by default; 'same' keeps the length (at stride 1). UserError where `groups` does not divide inputs and outputs.
 */
export class Conv1d {
  readonly weight: Parameter; // [taps, inputs / groups, outputs]
  readonly bias: Parameter | null; // [outputs]
  readonly #options: OpOptions;

  constructor(inputs: number, outputs: number, taps: number, given: Conv1dOptions = {}) {
    checkOptions('Conv1d', given, KEYS);
    if (!(Number.isInteger(taps) && taps > 0))
      throw new UserError(`Conv1d: taps must be a whole number of at least 1, got ${String(taps)}`);
    const { bias = true, std, ...options } = given,
      { groups = 1 } = options;
    if (!(Number.isInteger(groups) && groups > 0 && inputs % groups === 0 && outputs % groups === 0))
      throw new UserError(`Conv1d: ${groups} groups do not divide ${inputs} inputs and ${outputs} outputs`);
    this.weight = new Parameter([taps, inputs / groups, outputs], {
      kind: 'normal',
      std: std ?? Math.sqrt(2 / (taps * (inputs / groups))),
    });
    this.bias = bias ? new Parameter([outputs], { kind: 'constant', value: 0 }, { role: 'bias' }) : null;
    this.#options = fixedCopy(options);
  }

  forward(x: Tensor): Tensor {
    const y = conv1d(x, use(x, this.weight), this.#options);
    return this.bias ? add(y, use(x, this.bias)) : y;
  }
}
