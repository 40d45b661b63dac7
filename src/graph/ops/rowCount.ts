// How many rows a tensor with a varying first dimension has in this run, as a float scalar (for means).
import { isDynamic } from '../../base/shape.ts';
import { ShapeError } from '../../base/errors.ts';
import type { Op } from '../op.ts';
import { emit1, type Tensor } from '../tensor.ts';

export const rowCountOp: Op = {
  // Number of rows of x in this run; the values of x are not read.
  name: 'rowCount', unread: [0],
  infer([x]) {
    if (!isDynamic(x.shape)) throw new ShapeError('rowCount: the first dimension is fixed');
    return [{ dtype: 'float32', shape: [] }];
  },
  lower: { kind: 'map', at: (call) => call.e.op('cast', [call.extent(call.inputs[0].type, 0)], 'float32') },
  reference: (call) => [Float64Array.of(call.rows(call.inTypes[0]))],
};

/** [] float32: the count of a bounded or segmented first dimension. */
export const rowCount = (x: Tensor): Tensor => emit1('rowCount', [x]);
