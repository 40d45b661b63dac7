// Admits rows to experts with a capacity: of the rows of `permute`, which are kept, and where they lie. Capacities are
// data: other capacities run the same kernel. Kept rows stay in the order of their choices, whichever rows were
// preferred. A task has a range of rows, and finds by itself where the rows of each expert begin.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, elements, showType, type TensorType } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Stmt } from '../../../kernel/kernel.ts';
import type { LoopCall, Op } from '../../op.ts';
import { emit, type Tensor } from '../../tensor.ts';
import type { Permutation } from './permute.ts';
import { eachPiece, rangesOf } from './ranges.ts';
import { checkVector } from './routing.ts';
import { firstRow, Move, roomAt, Segments, type Share } from './segments.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    admit: AdmitAttrs;
  }
}

export interface AdmitOptions {
  /** The number of rows for which there is room. */
  readonly rows: number;
  /**
   * Every expert has as many rows as its capacity; rows that no choice fills are empty. Otherwise it has the rows that
   * it keeps.
   */
  readonly padded: boolean;
  /** Rows beyond the capacity are kept too; they are only counted. */
  readonly spill: boolean;
}
export type AdmitAttrs = {
  readonly rows: number;
  readonly padded: boolean;
  readonly spill: boolean;
  readonly ranked: boolean;
  readonly ranges: number;
};

export const admitOp: Op<AdmitAttrs> = {
  // Rows kept within capacity: offsets; choice of each row (-1: none); row of each choice (-1: dropped); expert of each
  // row; rows beyond.
  name: 'admit',
  countsAreInBounds: true,
  infer([offsets, order, capacity, choices, inverse, expert, rank], { rows, ranked }): TensorType[] {
    const { experts, n } = checkSorted('admit', [offsets, order, choices, inverse, expert]);
    checkVector('admit', 'capacity', capacity, experts);
    if (ranked) checkVector('admit', 'rank', rank, n);
    if (!Number.isInteger(rows) || rows < 0)
      throw new ShapeError(`admit: no room for ${rows} rows of ${showType(order)}`);
    const vector = (length: number): TensorType => ({ dtype: 'int32', shape: [length] });
    return [vector(experts + 1), vector(rows), vector(n), vector(rows), vector(experts)];
  },
  lower: {
    kind: 'loops',
    build(call) {
      const {
        e,
        k: w,
        outputs: [to, toOrder, toInverse, toExpert, beyond],
        inTypes: [t],
        attrs: { rows, padded, spill, ranked, ranges },
      } = call;
      const experts = boundOf(t.shape[0]) - 1,
        limit = w.int(rows);
      return {
        grid: { extent: ranges, work: null },
        body(range) {
          /** How many rows of expert z may be kept. */
          const most = (z: Expr): Expr => {
            const { room, count } = roomAt(call, z);
            return spill ? count : e.min(room, count);
          };
          const segments = new Segments(call, experts, limit, (z) =>
              padded ? e.max(most(z), roomAt(call, z).room) : most(z),
            ),
            kept = (z: Expr): Expr => e.min(most(z), e.op('sub', [segments.at(e.add(z, 1)), segments.at(z)])),
            filled = (z: Expr): Expr => e.op('add', [segments.at(z), kept(z)]),
            share = { range, ranges };
          const byPosition = (): Stmt[] => {
            const move = new Move(call, [
              { count: kept, to: (z) => segments.at(z), expert: toExpert, base: e.index(0) },
            ]);
            return [move.find(), move.rows(share, toOrder), ...move.choices(share, toInverse)];
          };
          return [
            ...segments.find(),
            w.when(e.eq(range, e.index(0)), [
              segments.store(to),
              w.vector(experts, (z) => {
                const { room, count } = roomAt(call, z);
                return [w.store(beyond, z, e.op('sub', [count, spill ? e.min(room, count) : kept(z)]))];
              }),
              ...(rows > 0
                ? [firstRow(call, segments.rows, toOrder, -1), firstRow(call, segments.rows, toExpert, 0)]
                : []),
            ]),
            ...(ranked && !spill ? [keepByRank(call, experts, segments, filled, share)] : byPosition()),
            ...(padded ? [segments.pad(filled, share, toOrder, toExpert)] : []),
          ];
        },
      };
    },
  },
};

/** The rows of a range whose rank is within the capacity, in their order, up to `filled`. */
function keepByRank(
  { e, k: w, inputs, outputs: [, toOrder, toInverse, toExpert] }: LoopCall<AdmitAttrs>,
  experts: number,
  segments: Segments,
  filled: (segment: Expr) => Expr,
  share: Share,
): Stmt {
  const [, order, capacity, , , , rank] = inputs,
    [next, end] = [w.scalar('index'), w.scalar('index')],
    [room, row] = [w.scalar('int32'), w.scalar('int32')],
    none = e.const(-1, 'int32');
  return eachPiece({ e, k: w, inputs }, experts, share, ({ expert: z, begin, low, high }) => {
    const fits = (at: Expr): Expr => e.lt(w.load(rank, at), room.get());
    return [
      next.set(e.cast(segments.at(z), 'index')),
      end.set(e.cast(filled(z), 'index')),
      room.set(w.load(capacity, z)),
      // Rows of the expert in earlier ranges.
      w.loop(e.add(low, [-1, begin]), (i) => [
        next.set(e.add(next.get(), e.select(fits(e.add(begin, i)), e.index(1), e.index(0)))),
      ]),
      w.loop(e.add(high, [-1, low]), (i) => {
        const at = e.add(low, i),
          choice = w.load(order, at);
        return [
          row.set(e.select(e.and(fits(at), e.lt(next.get(), end.get())), e.cast(next.get(), 'int32'), none)),
          w.store(toInverse, e.cast(choice, 'index'), row.get()),
          w.when(e.lt(none, row.get()), [
            w.store(toOrder, next.get(), choice),
            w.store(toExpert, next.get(), e.cast(z, 'int32')),
            next.set(e.add(next.get(), 1)),
          ]),
        ];
      }),
    ];
  });
}

/** Checks what `permute` made of choices: their number, and that of experts. */
export function checkSorted(
  op: string,
  [offsets, order, choices, inverse, expert]: readonly TensorType[],
): { experts: number; n: number } {
  checkVector(op, 'offsets', offsets);
  checkVector(op, 'order', order);
  const n = boundOf(order.shape[0]);
  checkVector(op, 'inverse', inverse, n);
  checkVector(op, 'expert', expert, n);
  if (choices.dtype !== 'int32' || elements(choices.shape) !== n)
    throw new ShapeError(`${op}: ${showType(choices)} are no choices of ${n} rows`);
  return { experts: boundOf(offsets.shape[0]) - 1, n };
}

/** Like the results of `permute`, with gaps: order is -1 for an empty row, inverse is -1 for a dropped choice. */
export interface Admission extends Permutation {
  /** int32 [E]: the number of rows for which the capacity had no room. */
  readonly beyond: Tensor;
}

/**
 * capacity int32 [E]; rank int32 [T * k] (`segmentRank`), or null: first come, first served. Of each expert, at least
 * as many rows must have a rank below its capacity as it can keep.
 */
export function admit(
  { offsets, order, choices, inverse, expert }: Permutation,
  capacity: Tensor,
  rank: Tensor | null,
  options: AdmitOptions,
  ranges = rangesOf(elements(order.shape), boundOf(capacity.shape[0])),
): Admission {
  const [to, toOrder, toInverse, toExpert, beyond] = emit(
    'admit',
    [offsets, order, capacity, choices, inverse, expert, ...(rank ? [rank] : [])],
    { ...options, ranked: rank !== null, ranges },
  );
  return { choices, offsets: to, order: toOrder, inverse: toInverse, expert: toExpert, beyond };
}
