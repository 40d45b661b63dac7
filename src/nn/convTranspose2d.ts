// Transposed convolution of images as a layer.
import { UserError } from '../base/errors.ts';
import { fixedCopy } from '../base/fixed.ts';
import { checkOptions, type KeysOf } from '../base/options.ts';
import { aFlag, atLeast0 } from '../base/kinds.ts';
import type { Tensor } from '../graph/tensor.ts';
import { add } from '../graph/ops/elementwise/add.ts';
import {
  convTranspose2d,
  CONV_TRANSPOSE_KEYS,
  type ConvTranspose2dOptions as OpOptions,
} from '../graph/ops/image/convTranspose2d.ts';
import { pairOf, type Pair } from '../graph/ops/image/windows.ts';
import { Parameter } from '../trace/parameter.ts';
import { use } from '../trace/trace.ts';

export interface ConvTranspose2dOptions extends OpOptions {
  /** Adds a bias; default true. */
  readonly bias?: boolean;
  /**
   * Standard deviation of the starting weights; default sqrt(2 / n), where n = taps * inputs / groups / stride is the
   * number of products in an element of the result, on average (He et al. 2015, equation 10).
   */
  readonly std?: number;
}

const KEYS: KeysOf<ConvTranspose2dOptions> = { ...CONV_TRANSPOSE_KEYS, bias: aFlag, std: atLeast0 };

/**
 * Images [N, H, W, inputs] -> [N, H', W', outputs], H' = (H - 1) stride - padding + dilation (taps - 1) + outputPadding
 * + 1; N may vary at run time. UserError where `groups` does not divide inputs and outputs.
 */
export class ConvTranspose2d {
  readonly weight: Parameter; // [rows, columns, outputs / groups, inputs]
  readonly bias: Parameter | null; // [outputs]
  readonly #options: OpOptions;

  constructor(inputs: number, outputs: number, taps: Pair, given: ConvTranspose2dOptions = {}) {
    checkOptions('ConvTranspose2d', given, KEYS);
    const { bias = true, std, ...options } = given,
      [rows, columns] = pairOf(taps),
      [down, right] = pairOf(options.stride ?? 1),
      { groups = 1 } = options;
    if (!(Number.isInteger(groups) && groups > 0 && inputs % groups === 0 && outputs % groups === 0))
      throw new UserError(`ConvTranspose2d: ${groups} groups do not divide ${inputs} inputs and ${outputs} outputs`);
    const products = (rows * columns * (inputs / groups)) / (down * right);
    this.weight = new Parameter([rows, columns, outputs / groups, inputs], {
      kind: 'normal',
      std: std ?? Math.sqrt(2 / products),
    });
    this.bias = bias ? new Parameter([outputs], { kind: 'constant', value: 0 }, { role: 'bias' }) : null;
    this.#options = fixedCopy(options);
  }

  forward(x: Tensor): Tensor {
    const y = convTranspose2d(x, use(x, this.weight), this.#options);
    return this.bias ? add(y, use(x, this.bias)) : y;
  }
}
