// How many rows each rank sends to each expert: the choices of all ranks' tokens, counted by the rank of the token.
// Every rank computes the whole matrix from the same routing, so that all ranks know all sizes.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { checkVector } from '../moe/routing.ts';
import { checkRanks } from './collective.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    rankCounts: RankCountsAttrs;
  }
}

/** choices: of one rank's tokens. */
export type RankCountsAttrs = { readonly ranks: number; readonly choices: number };

export const rankCountsOp: Op<RankCountsAttrs> = {
  // [r, e]: the rows of segment e whose choice belongs to a token of rank r; empty rows count for none.
  name: 'rankCounts',
  infer([order, offsets], { ranks, choices }) {
    checkRanks('rankCounts', ranks);
    checkVector('rankCounts', 'order', order);
    checkVector('rankCounts', 'offsets', offsets);
    if (![ranks, choices].every((n) => Number.isInteger(n) && n >= 1))
      throw new ShapeError(`rankCounts: no ${ranks} ranks with ${choices} choices each`);
    return [{ dtype: 'int32', shape: [ranks, boundOf(offsets.shape[0]) - 1] }];
  },
  lower: {
    kind: 'loops',
    build({ e, k: w, inputs: [order, offsets], outputs: [out], inTypes: [, t], attrs: { ranks, choices } }) {
      const experts = boundOf(t.shape[0]) - 1;
      return {
        grid: { extent: experts, work: null },
        body(z) {
          const counts = w.array('int32', ranks),
            from = w.scalar('index'),
            size = w.scalar('index'),
            own = w.scalar('int32');
          return [
            counts.fill(0),
            from.set(w.loadIndex(offsets, z)),
            size.set(e.add(w.loadIndex(offsets, e.add(z, 1)), [-1, from.get()])),
            w.loop(size.get(), (r) => [
              own.set(w.load(order, e.add(from.get(), r))),
              w.when(e.le(e.const(0, 'int32'), own.get()), [
                counts.set(
                  e.div(e.cast(own.get(), 'index'), choices),
                  e.op('add', [counts.at(e.div(e.cast(own.get(), 'index'), choices)), e.const(1, 'int32')]),
                ),
              ]),
            ]),
            w.loop(ranks, (s) => [w.store(out, e.add([experts, s], z), counts.at(s))]),
          ];
        },
      };
    },
  },
  reference({ inputs: [order, offsets], attrs: { ranks, choices } }) {
    const experts = offsets.length - 1,
      out = new Float64Array(ranks * experts);
    for (let z = 0; z < experts; z++)
      for (let r = offsets[z]; r < offsets[z + 1]; r++)
        if (order[r] >= 0) out[Math.floor(order[r] / choices) * experts + z]++;
    return [out];
  },
};

/** order int32 [rows] and offsets int32 [E + 1] (`permute`, `admit`) -> int32 [ranks, E]. */
export const rankCounts = (order: Tensor, offsets: Tensor, attrs: RankCountsAttrs): Tensor =>
  emit1('rankCounts', [order, offsets], attrs);
