// Like admit, but drops nothing: first the rows within capacity, then the others, both sorted by expert and in the
// order of their choices. Capacities are data: other capacities run the same kernel.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, elements, showType, type TensorType } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Op } from '../../op.ts';
import { emit, type Tensor } from '../../tensor.ts';
import { checkSorted } from './admit.ts';
import type { Permutation } from './permute.ts';
import { rangesOf } from './ranges.ts';
import { checkVector } from './routing.ts';
import { firstRow, Move, roomAt, Segments } from './segments.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    admitAll: AdmitAllAttrs & { readonly ranges: number };
  }
}

export type AdmitAllAttrs = {
  /** The number of rows within capacity for which there is room. */
  readonly rows: number;
  /** The number of rows beyond capacity for which there is room. */
  readonly beyond: number;
  /** Every expert has as many rows within capacity as its capacity; rows that no choice fills are empty. */
  readonly padded: boolean;
};

export const admitAllOp: Op<AdmitAllAttrs & { readonly ranges: number }> = {
  name: 'admitAll',
  countsAreInBounds: true,
  // Rows within capacity, then the others: offsets of either (from 0) and of both; choice of each row (-1: none); row
  // of each choice; expert of each row of either; rows beyond.
  infer([offsets, order, capacity, choices, inverse, expert], { rows, beyond }): TensorType[] {
    const { experts, n } = checkSorted('admitAll', [offsets, order, choices, inverse, expert]);
    checkVector('admitAll', 'capacity', capacity, experts);
    if (![rows, beyond].every((x) => Number.isInteger(x) && x >= 0))
      throw new ShapeError(`admitAll: no room for ${rows} and ${beyond} rows of ${showType(order)}`);
    return [experts + 1, experts + 1, 2 * experts + 1, rows + beyond, n, rows, beyond, experts].map(
      (length): TensorType => ({ dtype: 'int32', shape: [length] }),
    );
  },
  lower: {
    kind: 'loops',
    build(call) {
      const {
        e,
        k: w,
        outputs: [toInside, toOutside, toBoth, toOrder, toInverse, toExpert, toExpertBeyond, toBeyond],
        inTypes: [t, to],
        attrs: { rows, beyond, padded, ranges },
      } = call;
      const experts = boundOf(t.shape[0]) - 1,
        n = boundOf(to.shape[0]),
        limit = w.int(rows),
        most = w.int(beyond);
      return {
        grid: { extent: ranges, work: null },
        body(range) {
          const plus = (a: Expr, b: Expr): Expr => e.op('add', [a, b]),
            minus = (a: Expr, b: Expr): Expr => e.op('sub', [a, b]),
            share = { range, ranges };
          const within = (z: Expr): Expr => {
            const { room, count } = roomAt(call, z);
            return e.min(room, count);
          };
          const inside = new Segments(call, experts, limit, (z) => (padded ? roomAt(call, z).room : within(z))),
            kept = (z: Expr): Expr => e.min(within(z), minus(inside.at(e.add(z, 1)), inside.at(z))),
            beyondOf = (z: Expr): Expr => minus(roomAt(call, z).count, kept(z)),
            outside = new Segments(call, experts, most, beyondOf);
          const move = new Move(call, [
            { count: kept, to: (z) => inside.at(z), expert: toExpert, base: e.index(0) },
            {
              count: beyond < n ? (z) => minus(outside.at(e.add(z, 1)), outside.at(z)) : null,
              to: (z) => plus(inside.rows, outside.at(z)),
              expert: toExpertBeyond,
              base: e.cast(inside.rows, 'index'),
            },
          ]);
          return [
            ...inside.find(),
            ...outside.find(),
            w.when(e.eq(range, e.index(0)), [
              inside.store(toInside),
              outside.store(toOutside),
              inside.store(toBoth),
              w.vector(experts, (z) => [
                w.store(toBoth, e.add(z, experts + 1), plus(inside.rows, outside.at(e.add(z, 1)))),
                w.store(toBeyond, z, beyondOf(z)),
              ]),
              ...(rows + beyond > 0 ? [firstRow(call, plus(inside.rows, outside.rows), toOrder, -1)] : []),
              ...(rows > 0 ? [firstRow(call, inside.rows, toExpert, 0)] : []),
            ]),
            move.find(),
            move.rows(share, toOrder),
            ...move.choices(share, toInverse),
            ...(padded ? [inside.pad((z) => plus(inside.at(z), kept(z)), share, toOrder, toExpert)] : []),
          ];
        },
      };
    },
  },
};

/** All rows (2 E segments: within capacity, then beyond), with gaps if padded; and each kind by itself (E segments). */
export interface AllAdmitted extends Omit<Permutation, 'expert'> {
  readonly inside: { readonly offsets: Tensor; readonly expert: Tensor };
  readonly outside: { readonly offsets: Tensor; readonly expert: Tensor };
  /** int32 [E]: the number of rows for which the capacity had no room. */
  readonly beyond: Tensor;
}

/** capacity int32 [E]: an expert's first choices are within it. */
export function admitAll(
  { offsets, order, choices, inverse, expert }: Permutation,
  capacity: Tensor,
  attrs: AdmitAllAttrs,
  ranges = rangesOf(elements(order.shape), 2 * boundOf(capacity.shape[0])), // two segments for each expert
): AllAdmitted {
  const [inside, outside, both, toOrder, toInverse, toExpert, toExpertBeyond, beyond] = emit(
    'admitAll',
    [offsets, order, capacity, choices, inverse, expert],
    { ...attrs, ranges },
  );
  return {
    choices,
    offsets: both,
    order: toOrder,
    inverse: toInverse,
    inside: { offsets: inside, expert: toExpert },
    outside: { offsets: outside, expert: toExpertBeyond },
    beyond,
  };
}
