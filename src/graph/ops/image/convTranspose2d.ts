// Transposed convolution of images: the gradient of conv2d for its images.
import { ShapeError, UserError } from '../../../base/errors.ts';
import { aNumber } from '../../../base/kinds.ts';
import { checkOptions, type KeysOf } from '../../../base/options.ts';
import { showType, sizes } from '../../../base/shape.ts';
import { checkTensors, emit1, type Tensor } from '../../tensor.ts';
import { aPadding, aPair, pairOf, paddingOf, type Padding, type Pair } from './windows.ts';

export interface ConvTranspose2dOptions {
  readonly stride?: Pair;
  /** How much is cut off the result: the padding of the convolution that this transposes. 'same' is refused. */
  readonly padding?: Exclude<Padding, 'same'>;
  /** Rows and columns that the result has more, at the bottom and right; below the stride. Default 0. */
  readonly outputPadding?: Pair;
  readonly dilation?: Pair;
  readonly groups?: number;
}
export const CONV_TRANSPOSE_KEYS: KeysOf<ConvTranspose2dOptions> = {
  stride: aPair(1),
  padding: aPadding,
  outputPadding: aPair(0),
  dilation: aPair(1),
  groups: aNumber,
};

/**
 * y[n, r * stride - top + s * dilation, ..., o] is the sum over taps (s, t), places (r, q) and channels c of x[n, r, q,
 * c] w[s, t, o, c]: x [N, H, W, inputs], w [rows, columns, outputs / groups, inputs] -> [N, H', W', outputs] with H' =
 * (H - 1) stride - top - bottom + dilation (rows - 1) + outputPadding + 1. It is the gradient of `ops.conv2d` for its
 * images (Dumoulin & Visin 2016, chapter 4). N may vary at run time. ShapeError where they do not fit; UserError for
 * padding 'same', and for an outputPadding that is not below the stride.
 */
export function convTranspose2d(x: Tensor, w: Tensor, options: ConvTranspose2dOptions = {}): Tensor {
  checkOptions('convTranspose2d', options, CONV_TRANSPOSE_KEYS);
  checkTensors('convTranspose2d', x, w);
  const { groups = 1 } = options,
    [stride, dilation, extra] = [options.stride ?? 1, options.dilation ?? 1, options.outputPadding ?? 0].map(pairOf);
  const given = (options.padding ?? 0) as Padding;
  if (given === 'same') {
    const hint = 'numbers: with the padding p, the result is 2 p smaller than without';
    throw new UserError("convTranspose2d: padding 'same' is not defined for a transposed convolution", hint);
  }
  if (extra.some((n, d) => n >= stride[d])) {
    throw new UserError(
      `convTranspose2d: outputPadding [${extra.join(', ')}] must be below the stride [${stride.join(', ')}]`,
    );
  }
  const [rows, columns, each, inputs] = sizes(w.shape);
  if (x.shape.length !== 4 || w.shape.length !== 4 || x.shape[3] !== inputs || inputs % groups !== 0) {
    throw new ShapeError(
      `convTranspose2d: images ${showType(x.type)} and weights ${showType(w.type)} do not fit in ${groups} groups`,
      'images [N, H, W, inputs] need weights [rows, columns, outputs / groups, inputs]; groups divide inputs',
    );
  }
  if (each < 1) throw new ShapeError(`convTranspose2d: weights ${showType(w.type)} have no outputs`);
  const taps = [rows, columns] as const,
    padding = paddingOf(given, x.type, taps, stride, dilation);
  const size = sizes(x.shape.slice(1, 3)).map(
    (places, d) =>
      (places - 1) * stride[d] - padding[2 * d] - padding[2 * d + 1] + dilation[d] * (taps[d] - 1) + extra[d] + 1,
  );
  if (size.some((n) => n < 1)) {
    throw new ShapeError(
      `convTranspose2d: the result of ${showType(x.type)} would have ${size.join(' times ')} places`,
      'use less padding',
    );
  }
  return emit1('conv2dGradInput', [x, w], { stride, padding, dilation, groups, size });
}
