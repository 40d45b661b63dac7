// Tokens of which some take no part (padding). Those that do are moved to a dimension of their own, which is counted at
// run time, and results are moved back: everything between sees a batch without the others.
import { ShapeError } from '../../base/errors.ts';
import { elements, sameShape, showType } from '../../base/shape.ts';
import { scalar, type Tensor } from '../../graph/tensor.ts';
import { where } from '../../graph/ops/elementwise/where.ts';
import { admit } from '../../graph/ops/moe/admit.ts';
import { dispatch } from '../../graph/ops/moe/dispatch.ts';
import { permute } from '../../graph/ops/moe/permute.ts';
import { spreadRows } from '../../graph/ops/moe/spreadRows.ts';
import { reshape } from '../../graph/ops/shape/reshape.ts';
import { traceOf } from '../../trace/trace.ts';

interface Taking {
  /** x [tokens, ...rest] -> [those that take part, ...rest], in their order. */
  take(x: Tensor): Tensor;
  /** y [those that take part, width] -> [tokens, width]: 0 for the others. */
  put(y: Tensor): Tensor;
}

/** x [...tokens, dModel], mask bool [...tokens]. */
export function taking(mask: Tensor, x: Tensor): Taking {
  if (mask.dtype !== 'bool' || !sameShape(mask.shape, x.shape.slice(0, -1)))
    throw new ShapeError(`MoE: the mask ${showType(mask.type)} is not a bool for each token of ${showType(x.type)}`);
  // Those that take part are the rows of a first expert, and a second one has no room for the others.
  const rows = elements(mask.shape),
    which = where(mask, scalar(mask, 0, 'int32'), scalar(mask, 1, 'int32')),
    list = reshape(which, [rows, 1]),
    room = traceOf(x).constant({ dtype: 'int32', shape: [2] }, Int32Array.of(rows, 0)),
    how = { rows, padded: false, spill: false },
    taken = admit(permute(list, 2), room, null, how);
  return {
    take: (v) => dispatch(v, taken.order, taken.offsets, taken.inverse, { k: 1, gaps: true }),
    put: (y) => spreadRows(y, taken, list),
  };
}
