// Rows of a table by their numbers (an embedding). For a number outside the table nothing is read: the row is NaN (0
// for integers), which stops a training run, or 0 with `zeros`.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, showShape } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { isFloat } from '../../../base/dtype.ts';
import { emit1, type Tensor } from '../../tensor.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    gather: GatherAttrs;
  }
}

/** zeros: a number outside the table gives 0 instead of NaN. */
export type GatherAttrs = { readonly zeros: boolean };

export const gatherOp: Op<GatherAttrs> = {
  // Row index[...] of the table for each index; NaN outside the table.
  name: 'gather',
  activations: { inputs: [], outputs: [0] },
  takes: ['stored'],
  infer([table, index]) {
    if (index.dtype !== 'int32' || table.shape.length === 0) {
      throw new ShapeError(
        `gather: needs a table with rows and int32 indices, got ${showShape(table.shape)} and ` + `${index.dtype}`,
      );
    }
    return [{ dtype: table.dtype, shape: [...index.shape, ...table.shape.slice(1)] }];
  },
  grad: ({ inputs: [table, index], douts: [dout] }) => [dout && emit1('scatterAdd', [index, dout, table]), null],
  lower: {
    kind: 'map',
    weight: 2,
    at(call, at) {
      const {
          e,
          inputs: [table, index],
          attrs,
        } = call,
        dtype = table.type.dtype,
        lead = index.type.shape.length;
      const outside = e.const(isFloat(dtype) && !attrs.zeros ? NaN : 0, dtype);
      if (boundOf(table.type.shape[0]) === 0) return outside;
      const row = e.cast(index.at(at.slice(0, lead)), 'index');
      const inside = e.and(e.le(e.index(0), row), e.lt(row, call.extent(table.type, 0)));
      const value = table.at([e.select(inside, row, e.index(0)), ...at.slice(lead)]);
      return e.select(inside, value, outside);
    },
  },
};

/** table [V, ...rest], int32 index [...] -> [..., ...rest]. */
export const gather = (table: Tensor, index: Tensor): Tensor => emit1('gather', [table, index], { zeros: false });
