// The rank of each row among the rows of its expert, best score first, ties to the earlier row: it decides which rows
// are kept if there is not room for all.
import { ShapeError } from '../../../base/errors.ts';
import { elements, showType } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { checkVector, indexAt, rowsDim } from './routing.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    segmentRank: NoAttrs;
  }
}

export const segmentRankOp: Op = {
  // Number of rows in the same segment whose choice scores more, or as much and lies before; expert, offsets from
  // permute.
  name: 'segmentRank',
  takes: ['numbers'],
  infer([scores, order, expert, offsets], _, ids) {
    const rows = rowsDim('segmentRank', order, offsets, ids[3]);
    checkVector('segmentRank', 'expert', expert, rows.bound);
    if (elements(scores.shape) !== rows.bound)
      throw new ShapeError(`segmentRank: ${showType(scores)} are no scores of ${rows.bound} choices`);
    return [{ dtype: 'int32', shape: [rows] }];
  },
  lower: {
    kind: 'map',
    weight: 8,
    passes: 1,
    at(call, [r]) {
      const {
          e,
          inputs: [scores, order, expert, offsets],
        } = call,
        z = indexAt(call, expert, [r]);
      const score = (row: Expr): Expr => scores.linear(indexAt(call, order, [row]));
      const from = indexAt(call, offsets, [z]),
        to = indexAt(call, offsets, [e.add(z, 1)]),
        own = score(r);
      return e.reduce('sum', 'lanes', e.add(to, [-1, from]), (i) => {
        const row = e.add(from, i),
          other = score(row);
        const earlier = e.and(e.eq(own, other), e.lt(row, r));
        return e.select(e.or(e.lt(own, other), earlier), e.const(1, 'int32'), e.const(0, 'int32'));
      });
    },
  },
};

/** scores float [T, k], the results of `permute` -> int32 [T * k in segments]: 0 for the best row. */
export const segmentRank = (scores: Tensor, order: Tensor, expert: Tensor, offsets: Tensor): Tensor =>
  emit1('segmentRank', [scores, order, expert, offsets]);
