// From the histograms of all ranges of choices to the row at which each range begins to write, for each expert
// (permute).
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, showType } from '../../../base/shape.ts';
import type { Stmt } from '../../../kernel/kernel.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    choiceStarts: NoAttrs;
  }
}

export const choiceStartsOp: Op = {
  // The number of choices of lower experts, and of the same expert in lower ranges.
  name: 'choiceStarts',
  infer([counts]) {
    if (counts.dtype !== 'int32' || counts.shape.length !== 2)
      throw new ShapeError(`choiceStarts: needs int32 [ranges, experts], got ${showType(counts)}`);
    return [counts];
  },
  lower: {
    kind: 'loops',
    build({ e, k: w, inputs: [counts], outputs: [starts], inTypes: [t] }) {
      const [ranges, experts] = t.shape.map(boundOf);
      return {
        grid: { extent: 1, work: null },
        body() {
          const next = w.array('int32', experts);
          const count = (stores: boolean): Stmt =>
            w.loop(ranges, (r) => [
              w.vector(experts, (z) => {
                const at = e.add([experts, r], z);
                return [
                  ...(stores ? [w.store(starts, at, next.at(z))] : []),
                  next.set(z, e.op('add', [next.at(z), w.load(counts, at)])),
                ];
              }),
            ]);
          return [next.fill(0), count(false), w.scan(next, w.scalar('int32')), count(true)];
        },
      };
    },
  },
};

/** counts int32 [ranges, experts] (`histogram`) -> int32 [ranges, experts]. */
export const choiceStarts = (counts: Tensor): Tensor => emit1('choiceStarts', [counts]);
