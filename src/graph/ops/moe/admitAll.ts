// Like admit, but drops nothing: first the rows within capacity, then the others, both sorted by expert and in the
// order of their choices. Capacities are data: other capacities run the same kernel.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, showType, type TensorType } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Op } from '../../op.ts';
import { emit, type Tensor } from '../../tensor.ts';
import type { Permutation } from './permute.ts';
import { checkVector } from './routing.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    admitAll: AdmitAllAttrs;
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

export const admitAllOp: Op<AdmitAllAttrs> = {
  name: 'admitAll',
  countsAreInBounds: true,
  // Rows within capacity, then the others: offsets of either (from 0) and of both; choice of each row (-1: none); row
  // of each choice; expert of each row of either; rows beyond.
  infer([offsets, order, capacity], { rows, beyond }): TensorType[] {
    const experts = boundOf(offsets.shape[0]) - 1,
      n = boundOf(order.shape[0]);
    checkVector('admitAll', 'offsets', offsets);
    checkVector('admitAll', 'order', order);
    checkVector('admitAll', 'capacity', capacity, experts);
    if (![rows, beyond].every((x) => Number.isInteger(x) && x >= 0))
      throw new ShapeError(`admitAll: no room for ${rows} and ${beyond} rows of ${showType(order)}`);
    return [experts + 1, experts + 1, 2 * experts + 1, rows + beyond, n, rows, beyond, experts].map(
      (length): TensorType => ({ dtype: 'int32', shape: [length] }),
    );
  },
  lower: {
    kind: 'loops',
    update: true,
    build({
      e,
      k: w,
      inputs: [offsets, order, capacity],
      outputs: [inside, outside, both, toOrder, inverse, expert, expertBeyond, beyond],
      inTypes: [t],
      attrs,
    }) {
      const experts = boundOf(t.shape[0]) - 1,
        limit = w.int(attrs.rows),
        most = w.int(attrs.beyond);
      return {
        grid: { extent: 1, work: null },
        body() {
          const [next, start, from, count, room, fit, end, first] = Array.from({ length: 8 }, () => w.scalar('index'));
          const zero = e.index(0),
            one = e.index(1),
            nobody = e.const(-1, 'int32');
          const minus = (a: Expr, b: Expr): Expr => e.add(a, [-1, b]),
            int32 = (x: Expr): Expr => e.cast(x, 'int32');
          /** For expert z: its first choice, the number of its choices, and how many of them are within capacity. */
          const look = (z: Expr, left: Expr) => [
            from.set(w.loadIndex(offsets, z)),
            count.set(minus(w.loadIndex(offsets, e.add(z, one)), from.get())),
            room.set(e.max(zero, w.loadIndex(capacity, z))),
            fit.set(e.max(zero, e.min(e.min(room.get(), count.get()), left))),
          ];
          const choiceAt = (i: Expr): Expr => w.load(order, e.add(from.get(), i)),
            to = (choice: Expr): Expr => e.cast(choice, 'index');
          return [
            // As in admit: kernels read row 0 in place of a missing row.
            ...(attrs.rows + attrs.beyond > 0 ? [w.store(toOrder, zero, nobody)] : []),
            ...(attrs.rows > 0 ? [w.store(expert, zero, e.const(0, 'int32'))] : []),
            ...(attrs.beyond > 0 ? [w.store(expertBeyond, zero, e.const(0, 'int32'))] : []),
            next.set(zero),
            w.store(inside, zero, e.const(0, 'int32')),
            w.store(both, zero, e.const(0, 'int32')),
            w.loop(experts, (z) => [
              start.set(next.get()),
              ...look(z, minus(limit, next.get())),
              w.loop(fit.get(), (i) => {
                const row = e.add(start.get(), i);
                return [
                  w.store(toOrder, row, choiceAt(i)),
                  w.store(expert, row, int32(z)),
                  w.store(inverse, to(choiceAt(i)), int32(row)),
                ];
              }),
              next.set(e.add(start.get(), fit.get())),
              ...(attrs.padded
                ? [
                    end.set(e.max(next.get(), e.min(limit, e.add(start.get(), room.get())))),
                    w.loop(minus(end.get(), next.get()), (i) => {
                      const row = e.add(next.get(), i);
                      return [w.store(toOrder, row, nobody), w.store(expert, row, int32(z))];
                    }),
                    next.set(end.get()),
                  ]
                : []),
              w.store(beyond, z, int32(minus(count.get(), fit.get()))),
              w.store(inside, e.add(z, one), int32(next.get())),
              w.store(both, e.add(z, one), int32(next.get())),
            ]),
            first.set(next.get()),
            next.set(zero),
            w.store(outside, zero, e.const(0, 'int32')),
            w.loop(experts, (z) => [
              start.set(next.get()),
              count.set(w.loadIndex(beyond, z)),
              fit.set(e.min(count.get(), minus(most, next.get()))),
              // The last of an expert's choices.
              from.set(minus(w.loadIndex(offsets, e.add(z, one)), count.get())),
              w.loop(count.get(), (i) => {
                const at = e.add(start.get(), i),
                  row = e.add(first.get(), at),
                  there = e.lt(i, fit.get());
                return [
                  w.store(inverse, to(choiceAt(i)), e.select(there, int32(row), nobody)),
                  w.when(there, [w.store(toOrder, row, choiceAt(i)), w.store(expertBeyond, at, int32(z))]),
                ];
              }),
              next.set(e.add(start.get(), fit.get())),
              w.store(outside, e.add(z, one), int32(next.get())),
              w.store(both, e.add(z, experts + 1), int32(e.add(first.get(), next.get()))),
            ]),
          ];
        },
      };
    },
  },
  reference({ inputs: [offsets, order, capacity], outTypes, attrs: { rows, beyond: most, padded } }) {
    const made = outTypes.map((o) => new Float64Array(boundOf(o.shape[0]))),
      [inside, outside, both, toOrder, inverse, expert, expertBeyond, beyond] = made;
    const experts = capacity.length;
    let next = 0;
    for (let z = 0; z < experts; z++) {
      const start = next,
        room = Math.max(0, capacity[z]),
        count = offsets[z + 1] - offsets[z],
        fit = Math.max(0, Math.min(room, count, rows - next));
      for (let i = 0; i < fit; i++, next++) {
        toOrder[next] = order[offsets[z] + i];
        expert[next] = z;
        inverse[toOrder[next]] = next;
      }
      for (const end = Math.min(rows, start + room); padded && next < end; next++) {
        toOrder[next] = -1;
        expert[next] = z;
      }
      beyond[z] = count - fit;
      inside[z + 1] = both[z + 1] = next;
    }
    const first = next;
    next = 0;
    for (let z = 0; z < experts; z++) {
      for (let i = 0; i < beyond[z]; i++) {
        const choice = order[offsets[z + 1] - beyond[z] + i],
          there = next < most;
        inverse[choice] = there ? first + next : -1;
        if (there) {
          toOrder[first + next] = choice;
          expertBeyond[next++] = z;
        }
      }
      outside[z + 1] = next;
      both[experts + z + 1] = first + next;
    }
    return made;
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
export function admitAll({ offsets, order }: Permutation, capacity: Tensor, attrs: AdmitAllAttrs): AllAdmitted {
  const [inside, outside, both, toOrder, inverse, expert, expertBeyond, beyond] = emit(
    'admitAll',
    [offsets, order, capacity],
    attrs,
  );
  return {
    offsets: both,
    order: toOrder,
    inverse,
    inside: { offsets: inside, expert },
    outside: { offsets: outside, expert: expertBeyond },
    beyond,
  };
}
