// Convolution of images as a layer.
import { UserError } from '../base/errors.ts';
import { fixedCopy } from '../base/fixed.ts';
import { checkOptions, type KeysOf } from '../base/options.ts';
import { aFlag, atLeast0 } from '../base/kinds.ts';
import type { Tensor } from '../graph/tensor.ts';
import { add } from '../graph/ops/elementwise/add.ts';
import { conv2d, CONV_KEYS, type Conv2dOptions as OpOptions } from '../graph/ops/image/conv2d.ts';
import { pairOf, type Pair } from '../graph/ops/image/windows.ts';
import { Parameter } from '../trace/parameter.ts';
import { use } from '../trace/trace.ts';

export interface Conv2dOptions extends OpOptions {
  /** Adds a bias; default true. Before a normalisation, which removes it, set it to false. */
  readonly bias?: boolean;
  /**
   * Standard deviation of the starting weights; default sqrt(2 / fan-in), which keeps the size of activations under
   * ReLU (He et al. 2015, equation 10).
   */
  readonly std?: number;
}

const KEYS: KeysOf<Conv2dOptions> = { ...CONV_KEYS, bias: aFlag, std: atLeast0 };

/**
 * Images [N, H, W, inputs] -> [N, H', W', outputs], with windows of `taps`; N may vary at run time. Padding is 0 by
 * default; 'same' keeps height and width (at stride 1).
 */
export class Conv2d {
  readonly weight: Parameter; // [rows, columns, inputs / groups, outputs]
  readonly bias: Parameter | null; // [outputs]
  readonly #options: OpOptions;

  constructor(inputs: number, outputs: number, taps: Pair, given: Conv2dOptions = {}) {
    checkOptions('Conv2d', given, KEYS);
    const { bias = true, std, ...options } = given,
      [rows, columns] = pairOf(taps),
      { groups = 1 } = options;
    if (!(Number.isInteger(groups) && groups > 0 && inputs % groups === 0 && outputs % groups === 0)) {
      throw new UserError(`Conv2d: ${groups} groups do not divide ${inputs} inputs and ${outputs} outputs`);
    }
    const fanIn = rows * columns * (inputs / groups);
    this.weight = new Parameter([rows, columns, inputs / groups, outputs], {
      kind: 'normal',
      std: std ?? Math.sqrt(2 / fanIn),
    });
    this.bias = bias ? new Parameter([outputs], { kind: 'constant', value: 0 }, { role: 'bias' }) : null;
    this.#options = fixedCopy(options);
  }

  forward(x: Tensor): Tensor {
    const y = conv2d(x, use(x, this.weight), this.#options);
    return this.bias ? add(y, use(x, this.bias)) : y;
  }
}
