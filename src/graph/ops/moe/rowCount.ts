// How many rows a tensor with a varying first dimension has in this run, as a float scalar (for means).
import { isDynamic, type TensorType } from '../../../base/shape.ts';
import { ShapeError } from '../../../base/errors.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    rowCount: RowCountAttrs;
  }
}

/** dtype: of the result; default float32. */
export type RowCountAttrs = { readonly dtype?: 'float64' };

export const rowCountOp: Op<RowCountAttrs> = {
  // Number of rows of x in this run; the values of x are not read.
  name: 'rowCount',
  takes: ['stored'],
  unread: [0],
  infer([x], { dtype = 'float32' as const }): TensorType[] {
    if (!isDynamic(x.shape)) throw new ShapeError('rowCount: the first dimension is fixed');
    return [{ dtype, shape: [] }];
  },
  lower: {
    kind: 'map',
    at: (call) => call.e.cast(call.extent(call.inputs[0].type, 0), call.outTypes[0].dtype),
  },
};

/** float64 []: the count of a bounded or segmented first dimension. */
export const rowCount = (x: Tensor): Tensor => emit1('rowCount', [x], { dtype: 'float64' });
