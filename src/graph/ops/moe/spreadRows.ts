// Moves rows back to the tokens that they were taken from, at most one a token: the reverse of `dispatch` with one
// choice a token. A token whose row was not taken gets zeros.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, showType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import type { Permutation } from './permute.ts';
import { checkVector, ifThere, indexAt, segmentsOf } from './routing.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    spreadRows: NoAttrs;
  }
}

export const spreadRowsOp: Op = {
  // Row t = rows[inverse[t]], zeros where that is negative, for each row of like; order serves the gradient.
  name: 'spreadRows',
  takes: ['stored'],
  moves: 'first',
  unread: [2, 3],
  infer([x, inverse, order, like]) {
    checkVector('spreadRows', 'order', order, segmentsOf('spreadRows', x).bound);
    if (like.shape.length === 0) throw new ShapeError(`spreadRows: ${showType(like)} has no rows`);
    checkVector('spreadRows', 'inverse', inverse, boundOf(like.shape[0]));
    return [{ dtype: x.dtype, shape: [like.shape[0], ...x.shape.slice(1)] }];
  },
  grad({ inputs: [x, inverse, order], douts: [d] }) {
    const offsets = x.builder.tensor(segmentsOf('spreadRows', x.type).offsets);
    return [d && emit1('dispatch', [d, order, offsets, inverse], { k: 1, gaps: true }), null, null, null];
  },
  lower: {
    kind: 'map',
    weight: 0,
    at(call, [t, ...rest]) {
      const {
        e,
        inputs: [x, inverse],
      } = call;
      return ifThere(
        call,
        true,
        boundOf(x.type.shape[0]),
        indexAt(call, inverse, [t]),
        e.const(0, x.type.dtype),
        (row) => x.at([row, ...rest]),
      );
    },
  },
};

/** rows [rows in segments, ...rest], the results of `admit` for k = 1, like [T, ...] -> [T, ...rest]. */
export const spreadRows = (
  rows: Tensor,
  { inverse, order }: Pick<Permutation, 'inverse' | 'order'>,
  like: Tensor,
): Tensor => emit1('spreadRows', [rows, inverse, order, like]);
