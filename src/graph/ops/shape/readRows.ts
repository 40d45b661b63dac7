// Reads the rows of some steps from a cache: the gradient of updateRows for the rows. Rows outside the cache are 0.
import { boundOf } from '../../../base/shape.ts';
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
};

/** cache [B, C, ...rest], like [B, T, ...rest] or, for B = 1, [rows, ...rest] (not read), start int32 [] -> as like. */
export const readRows = (cache: Tensor, like: Tensor, start: Tensor): Tensor => emit1('readRows', [cache, like, start]);
