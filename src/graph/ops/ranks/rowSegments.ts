// The segment of each row.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { checkVector } from '../moe/routing.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    rowSegments: RowSegmentsAttrs;
  }
}

/** rows: the most rows. */
export type RowSegmentsAttrs = { readonly rows: number };

export const rowSegmentsOp: Op<RowSegmentsAttrs> = {
  // e for the rows offsets[e] to offsets[e + 1] - 1; rows after the last segment have none.
  name: 'rowSegments',
  infer([offsets], { rows }) {
    checkVector('rowSegments', 'offsets', offsets);
    if (!Number.isInteger(rows) || rows < 0) throw new ShapeError(`rowSegments: no ${rows} rows`);
    return [{ dtype: 'int32', shape: [rows] }];
  },
  lower: {
    kind: 'loops',
    build({ e, k: w, inputs: [offsets], outputs: [out], inTypes: [t], attrs: { rows } }) {
      const limit = w.int(rows);
      return {
        grid: { extent: boundOf(t.shape[0]) - 1, work: null },
        body(z) {
          const from = w.scalar('index'),
            to = w.scalar('index');
          return [
            from.set(e.min(w.loadIndex(offsets, z), limit)),
            to.set(e.min(w.loadIndex(offsets, e.add(z, 1)), limit)),
            w.vector(e.add(to.get(), [-1, from.get()]), (r) => [
              w.store(out, e.add(from.get(), r), e.cast(z, 'int32')),
            ]),
          ];
        },
      };
    },
  },
  reference({ inputs: [offsets], attrs: { rows } }) {
    const out = new Float64Array(rows).fill(NaN);
    for (let z = 0; z + 1 < offsets.length; z++) out.fill(z, offsets[z], offsets[z + 1]);
    return [out];
  },
};

/** offsets int32 [S + 1] -> int32 [rows]. */
export const rowSegments = (offsets: Tensor, attrs: RowSegmentsAttrs): Tensor => emit1('rowSegments', [offsets], attrs);
