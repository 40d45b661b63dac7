// Dimensions in another order. Kernels read the input directly; the result is stored only if a reader needs rows in
// that order.
import { ShapeError } from '../../../base/errors.ts';
import { showShape } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    transpose: TransposeAttrs;
  }
}

export type TransposeAttrs = { readonly order: readonly number[] };

export const transposeOp: Op<TransposeAttrs> = {
  // Dimension i of the result is dimension order[i] of x.
  name: 'transpose',
  moves: 'first',
  takes: ['stored'],
  infer([x], { order }) {
    if ([...order].sort((a, b) => a - b).some((d, i) => d !== i) || order.length !== x.shape.length) {
      throw new ShapeError(`transpose: [${order.join(', ')}] is no order of the dimensions of ${showShape(x.shape)}`);
    }
    if (typeof x.shape[0] !== 'number' && order[0] !== 0) {
      throw new ShapeError(
        `transpose: the first dimension of ${showShape(x.shape)} varies at run time and must stay first`,
      );
    }
    return [{ dtype: x.dtype, shape: order.map((d) => x.shape[d]) }];
  },
  grad: ({ douts: [dout], attrs: { order } }) => [
    dout && emit1('transpose', [dout], { order: order.map((_, i) => order.indexOf(i)) }),
  ],
  lower: {
    kind: 'map',
    weight: 0,
    at: ({ inputs: [x], attrs: { order } }, index) => x.at(order.map((_, i) => index[order.indexOf(i)])),
  },
};

/** Dimensions reordered; by default the last two are swapped. */
export function transpose(x: Tensor, order?: readonly number[]): Tensor {
  const rank = x.shape.length;
  return emit1('transpose', [x], { order: order ?? x.shape.map((_, i) => (i < rank - 2 ? i : 2 * rank - 3 - i)) });
}
