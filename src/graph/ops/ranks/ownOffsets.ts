// Where the rows of each of this rank's slots begin, if its slots' rows lie one after the other.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, showType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { checkVector } from '../moe/routing.ts';
import { checkRanks } from './collective.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    ownOffsets: OwnOffsetsAttrs;
  }
}

export type OwnOffsetsAttrs = { readonly ranks: number };

export const ownOffsetsOp: Op<OwnOffsetsAttrs> = {
  // Sums of the sizes of the segments in this rank's slots: slots, the segment in each slot; rank: int32 [].
  name: 'ownOffsets',
  countsAreInBounds: true,
  infer([offsets, slots, rank], { ranks }) {
    checkRanks('ownOffsets', ranks);
    checkVector('ownOffsets', 'offsets', offsets);
    checkVector('ownOffsets', 'slots', slots, boundOf(offsets.shape[0]) - 1);
    const own = boundOf(slots.shape[0]) / ranks;
    if (!Number.isInteger(own) || rank.shape.length !== 0)
      throw new ShapeError(`ownOffsets: ${showType(slots)} has no equal parts for ${ranks} ranks`);
    return [{ dtype: 'int32', shape: [own + 1] }];
  },
  lower: {
    kind: 'loops',
    build({ e, k: w, inputs: [offsets, slots, rank], outputs: [out], outTypes: [o] }) {
      const own = boundOf(o.shape[0]) - 1;
      return {
        grid: { extent: 1, work: null },
        body() {
          const sum = w.scalar('int32'),
            segment = w.scalar('index'),
            first = w.scalar('index');
          return [
            sum.set(e.const(0, 'int32')),
            first.set(e.scale(w.loadIndex(rank, e.index(0)), own)),
            w.store(out, e.index(0), sum.get()),
            w.loop(own, (z) => [
              segment.set(w.loadIndex(slots, e.add(first.get(), z))),
              sum.set(
                e.op('add', [
                  sum.get(),
                  e.op('sub', [w.load(offsets, e.add(segment.get(), 1)), w.load(offsets, segment.get())]),
                ]),
              ),
              w.store(out, e.add(z, 1), sum.get()),
            ]),
          ];
        },
      };
    },
  },
  reference({ inputs: [offsets, slots, [rank]], outTypes: [o] }) {
    const own = boundOf(o.shape[0]) - 1,
      out = new Float64Array(own + 1);
    for (let z = 0; z < own; z++) {
      const segment = slots[rank * own + z];
      out[z + 1] = out[z] + offsets[segment + 1] - offsets[segment];
    }
    return [out];
  },
};

/** offsets int32 [S + 1], slots int32 [S], rank int32 [] -> int32 [S / ranks + 1]. */
export const ownOffsets = (offsets: Tensor, slots: Tensor, rank: Tensor, attrs: OwnOffsetsAttrs): Tensor =>
  emit1('ownOffsets', [offsets, slots, rank], attrs);
