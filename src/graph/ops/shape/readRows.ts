// Reads the rows of some steps from a cache: the gradient of updateRows for the rows. Rows outside the cache are 0.
import { boundOf, elements } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, zeros, type Tensor } from '../../tensor.ts';
import { areCounted, checkCache } from './updateRows.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    readRows: NoAttrs;
  }
}

export const readRowsOp: Op = {
  // [:, t] = cache[:, start + t]; like gives the shape, which has no first axis where its rows are counted.
  name: 'readRows',
  unread: [1],
  infer([cache, like, start]) {
    checkCache('readRows', cache, like, start);
    return [like];
  },
  grad({ inputs: [cache, , start], douts: [d] }) {
    return [d && emit1('updateRows', [zeros(cache), d, start]), null, null];
  },
  lower: {
    kind: 'map',
    weight: 2,
    at({ e, inputs: [cache, like, start] }, index) {
      const size = boundOf(cache.type.shape[1]),
        { dtype } = cache.type;
      if (size === 0) return e.const(0, dtype);
      const counted = areCounted(like.type),
        [at, rest] = counted ? [index[0], index.slice(1)] : [index[1], index.slice(2)];
      const row = e.add(at, e.cast(start.at([]), 'index'));
      const inside = e.and(e.le(e.index(0), row), e.le(row, e.index(size - 1)));
      return e.select(
        inside,
        cache.at([counted ? e.index(0) : index[0], e.select(inside, row, e.index(0)), ...rest]),
        e.const(0, dtype),
      );
    },
  },
  reference({ inputs: [cache, , [start]], inTypes: [tc], outTypes: [o], rows }) {
    const out = new Float64Array(elements(o.shape)),
      width = elements(tc.shape.slice(2)),
      [B, C] = tc.shape.map(boundOf),
      T = areCounted(o) ? rows(o) : boundOf(o.shape[1]);
    for (let b = 0; b < B; b++)
      for (let t = 0; t < T; t++) {
        if (start + t >= 0 && start + t < C)
          out.set(cache.subarray((b * C + start + t) * width, (b * C + start + t + 1) * width), (b * T + t) * width);
      }
    return [out];
  },
};

/** cache [B, C, ...rest], like [B, T, ...rest] or, for B = 1, [rows, ...rest] (not read), start int32 [] -> as like. */
export const readRows = (cache: Tensor, like: Tensor, start: Tensor): Tensor => emit1('readRows', [cache, like, start]);
