// Admits rows to experts with a capacity: of the rows of `permute`, which are kept, and where they lie. Capacities are
// data: other capacities run the same kernel. Kept rows stay in the order of their choices, whichever rows were
// preferred.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, showType, type TensorType } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Op } from '../../op.ts';
import { emit, type Tensor } from '../../tensor.ts';
import { checkVector } from './routing.ts';
import type { Permutation } from './permute.ts';

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
};

export const admitOp: Op<AdmitAttrs> = {
  // Rows kept within capacity: offsets; choice of each row (-1: none); row of each choice (-1: dropped); expert of each
  // row; rows beyond.
  name: 'admit',
  countsAreInBounds: true,
  infer([offsets, order, capacity, rank], { rows, ranked }): TensorType[] {
    const experts = boundOf(offsets.shape[0]) - 1,
      n = boundOf(order.shape[0]);
    checkVector('admit', 'offsets', offsets);
    checkVector('admit', 'order', order);
    checkVector('admit', 'capacity', capacity, experts);
    if (ranked) checkVector('admit', 'rank', rank, n);
    if (!Number.isInteger(rows) || rows < 0)
      throw new ShapeError(`admit: no room for ${rows} rows of ${showType(order)}`);
    const vector = (length: number): TensorType => ({ dtype: 'int32', shape: [length] });
    return [vector(experts + 1), vector(rows), vector(n), vector(rows), vector(experts)];
  },
  lower: {
    kind: 'loops',
    build({
      e,
      k: w,
      inputs: [offsets, order, capacity, rank],
      outputs: [to, toOrder, inverse, expert, beyond],
      inTypes: [t],
      attrs,
    }) {
      const { rows, padded, spill, ranked } = attrs,
        experts = boundOf(t.shape[0]) - 1,
        limit = w.int(rows);
      return {
        grid: { extent: 1, work: null },
        body() {
          const [next, start, kept, from, count, room, end] = Array.from({ length: 7 }, () => w.scalar('index'));
          const row = w.scalar('int32'),
            zero = e.index(0),
            one = e.index(1);
          const int32 = (x: Expr): Expr => e.cast(x, 'int32'),
            minus = (a: Expr, b: Expr): Expr => e.add(a, [-1, b]);
          return [
            // Kernels read row 0 in place of a missing row and ignore the value: row 0 must therefore be initialised
            // too.
            ...(rows > 0
              ? [w.store(toOrder, zero, e.const(-1, 'int32')), w.store(expert, zero, e.const(0, 'int32'))]
              : []),
            next.set(zero),
            w.store(to, zero, e.const(0, 'int32')),
            w.loop(experts, (z) => [
              start.set(next.get()),
              kept.set(zero),
              from.set(w.loadIndex(offsets, z)),
              count.set(minus(w.loadIndex(offsets, e.add(z, one)), from.get())),
              room.set(e.max(zero, w.loadIndex(capacity, z))),
              w.loop(count.get(), (i) => {
                const at = e.add(from.get(), i),
                  place = ranked ? w.loadIndex(rank, at) : i;
                const fits = spill
                  ? e.lt(next.get(), limit)
                  : e.and(e.lt(next.get(), limit), e.and(e.lt(place, room.get()), e.lt(kept.get(), room.get())));
                const choice = w.load(order, at);
                return [
                  row.set(e.select(fits, int32(next.get()), e.const(-1, 'int32'))),
                  w.store(inverse, e.cast(choice, 'index'), row.get()),
                  w.when(e.le(e.const(0, 'int32'), row.get()), [
                    w.store(toOrder, next.get(), choice),
                    w.store(expert, next.get(), int32(z)),
                    next.set(e.add(next.get(), one)),
                    kept.set(e.add(kept.get(), one)),
                  ]),
                ];
              }),
              w.store(beyond, z, int32(minus(count.get(), spill ? e.min(room.get(), count.get()) : kept.get()))),
              ...(padded
                ? [
                    end.set(e.max(next.get(), e.min(limit, e.add(start.get(), room.get())))),
                    w.loop(minus(end.get(), next.get()), (i) => [
                      w.store(toOrder, e.add(next.get(), i), e.const(-1, 'int32')),
                      w.store(expert, e.add(next.get(), i), int32(z)),
                    ]),
                    next.set(end.get()),
                  ]
                : []),
              w.store(to, e.add(z, one), int32(next.get())),
            ]),
          ];
        },
      };
    },
  },
  reference({ inputs: [offsets, order, capacity, rank], outTypes, attrs: { rows, padded, spill, ranked } }) {
    const [to, toOrder, inverse, expert, beyond] = outTypes.map((o) => new Float64Array(boundOf(o.shape[0])));
    let next = 0;
    for (let z = 0; z < capacity.length; z++) {
      const start = next,
        room = Math.max(0, capacity[z]),
        count = offsets[z + 1] - offsets[z];
      for (let i = 0; i < count; i++) {
        const at = offsets[z] + i,
          fits = next < rows && (spill || ((ranked ? rank[at] : i) < room && next - start < room));
        inverse[order[at]] = fits ? next : -1;
        if (fits) {
          toOrder[next] = order[at];
          expert[next++] = z;
        }
      }
      beyond[z] = count - (spill ? Math.min(room, count) : next - start);
      for (const end = Math.min(rows, start + room); padded && next < end; next++) {
        toOrder[next] = -1;
        expert[next] = z;
      }
      to[z + 1] = next;
    }
    return [to, toOrder, inverse, expert, beyond];
  },
};

/** Like the results of `permute`, with gaps: order is -1 for an empty row, inverse is -1 for a dropped choice. */
export interface Admission extends Permutation {
  /** int32 [E]: the number of rows for which the capacity had no room. */
  readonly beyond: Tensor;
}

/** capacity int32 [E]; rank int32 [T * k] (`segmentRank`), or null: first come, first served. */
export function admit(
  { offsets, order }: Permutation,
  capacity: Tensor,
  rank: Tensor | null,
  options: AdmitOptions,
): Admission {
  const [to, toOrder, inverse, expert, beyond] = emit('admit', [offsets, order, capacity, ...(rank ? [rank] : [])], {
    ...options,
    ranked: rank !== null,
  });
  return { offsets: to, order: toOrder, inverse, expert, beyond };
}
