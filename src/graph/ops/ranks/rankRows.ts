// The routing of this rank's own tokens, cut out of the routing of the global batch: which of the rank's choices each
// of its rows is, sorted by expert, and the row of each of its choices.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, type TensorType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit, type Tensor } from '../../tensor.ts';
import { checkVector } from '../moe/routing.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    rankRows: RankRowsAttrs;
  }
}

/** choices: of one rank's tokens. */
export type RankRowsAttrs = { readonly choices: number };

export const rankRowsOp: Op<RankRowsAttrs> = {
  // Offsets of the rank's rows by expert; its choice for each of them; the row of each of its choices (-1: dropped).
  name: 'rankRows',
  countsAreInBounds: true,
  infer([order, offsets, inverse, counts, rank], { choices }): TensorType[] {
    for (const [what, t] of [
      ['order', order],
      ['offsets', offsets],
      ['inverse', inverse],
    ] as const)
      checkVector('rankRows', what, t);
    const experts = boundOf(offsets.shape[0]) - 1;
    if (counts.shape.length !== 2 || boundOf(counts.shape[1]) !== experts || rank.shape.length !== 0)
      throw new ShapeError(`rankRows: needs counts [ranks, ${experts}] and the rank []`);
    const vector = (n: number): TensorType => ({ dtype: 'int32', shape: [n] });
    return [vector(experts + 1), vector(choices), vector(choices)];
  },
  lower: {
    kind: 'loops',
    build({ e, k: w, inputs: [order, offsets, inverse, counts, rank], outputs, inTypes: [, t], attrs: { choices } }) {
      const [toOffsets, toOrder, toInverse] = outputs,
        experts = boundOf(t.shape[0]) - 1;
      return {
        grid: { extent: experts, work: null },
        body(z) {
          const [own, first, before, size, dropped] = Array.from({ length: 5 }, () => w.scalar('index')),
            choice = w.scalar('int32');
          const countAt = (r: typeof z, x: typeof z): typeof z => w.loadIndex(counts, e.add([experts, r], x)),
            int32 = (x: typeof z): typeof z => e.cast(x, 'int32'),
            firstChoice = e.scale(own.get(), choices);
          return [
            own.set(w.loadIndex(rank, e.index(0))),
            first.set(e.index(0)),
            w.loop(z, (x) => [first.set(e.add(first.get(), countAt(own.get(), x)))]),
            before.set(w.loadIndex(offsets, z)),
            w.loop(own.get(), (r) => [before.set(e.add(before.get(), countAt(r, z)))]),
            size.set(countAt(own.get(), z)),
            w.store(toOffsets, z, int32(first.get())),
            w.when(e.eq(z, e.index(experts - 1)), [
              w.store(toOffsets, e.index(experts), int32(e.add(first.get(), size.get()))),
            ]),
            w.loop(size.get(), (i) => [
              choice.set(e.op('sub', [w.load(order, e.add(before.get(), i)), int32(firstChoice)])),
              w.store(toOrder, e.add(first.get(), i), choice.get()),
              w.store(toInverse, e.cast(choice.get(), 'index'), int32(e.add(first.get(), i))),
            ]),
            // A task looks for dropped choices in its share of all.
            dropped.set(e.div(e.scale(z, choices), experts)),
            w.loop(e.add(e.div(e.scale(e.add(z, 1), choices), experts), [-1, dropped.get()]), (i) => {
              const c = e.add(dropped.get(), i);
              return [
                w.when(e.lt(w.load(inverse, e.add(firstChoice, c)), e.const(0, 'int32')), [
                  w.store(toInverse, c, e.const(-1, 'int32')),
                ]),
              ];
            }),
          ];
        },
      };
    },
  },
  reference({ inputs: [order, offsets, inverse, counts, [rank]], attrs: { choices } }) {
    const experts = offsets.length - 1,
      to = new Float64Array(experts + 1),
      toOrder = new Float64Array(choices),
      toInverse = Float64Array.from({ length: choices }, (_, c) => Math.min(0, inverse[rank * choices + c]));
    for (let z = 0; z < experts; z++) {
      let row = offsets[z];
      for (let r = 0; r < rank; r++) row += counts[r * experts + z];
      const size = counts[rank * experts + z];
      for (let i = 0; i < size; i++) {
        const choice = order[row + i] - rank * choices;
        toOrder[to[z] + i] = choice;
        toInverse[choice] = to[z] + i;
      }
      to[z + 1] = to[z] + size;
    }
    return [to, toOrder, toInverse];
  },
};

/** The rows of a rank's own tokens; all int32. */
export interface RankRows {
  readonly offsets: Tensor; // [experts + 1]
  readonly order: Tensor; // [choices]: row -> choice of this rank
  readonly inverse: Tensor; // [choices]: choice of this rank -> row, -1 if it was dropped
}

/** order, offsets, inverse: of the global batch. counts int32 [ranks, E] (`rankCounts`), rank int32 []. */
export function rankRows(
  { order, offsets, inverse }: { readonly order: Tensor; readonly offsets: Tensor; readonly inverse: Tensor },
  counts: Tensor,
  rank: Tensor,
  attrs: RankRowsAttrs,
): RankRows {
  const [own, ownOrder, ownInverse] = emit('rankRows', [order, offsets, inverse, counts, rank], attrs);
  return { offsets: own, order: ownOrder, inverse: ownInverse };
}
