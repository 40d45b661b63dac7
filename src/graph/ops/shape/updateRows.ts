// Writes the rows of some steps into a cache, for keys and values of attention. Rows that would lie outside the cache
// are left out.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, elements, sameShape, showType, type TensorType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, zeros, type Tensor } from '../../tensor.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    updateRows: NoAttrs;
  }
}

/** Checks that `rows` are some of the cache's along axis 1, and `start` a whole number. */
export function checkCache(op: string, cache: TensorType, rows: TensorType, start: TensorType): void {
  const rest = (t: TensorType): TensorType['shape'] => [t.shape[0], ...t.shape.slice(2)];
  if (
    cache.shape.length < 2 ||
    cache.shape.length !== rows.shape.length ||
    !sameShape(rest(cache), rest(rows)) ||
    cache.dtype !== rows.dtype
  ) {
    throw new ShapeError(
      `${op}: rows ${showType(rows)} do not fit the cache ${showType(cache)}`,
      'they may differ in axis 1 only',
    );
  }
  if (start.dtype !== 'int32' || start.shape.length !== 0)
    throw new ShapeError(`${op}: start must be an int32 scalar, got ${showType(start)}`);
}

export const updateRowsOp: Op = {
  // Cache with rows[:, t] at [:, start + t].
  name: 'updateRows',
  infer([cache, rows, start]) {
    checkCache('updateRows', cache, rows, start);
    return [cache];
  },
  grad({ inputs: [, rows, start], douts: [d], needs }) {
    if (!d) return [null, null, null];
    return [
      needs[0] ? emit1('updateRows', [d, zeros(rows), start]) : null,
      needs[1] ? emit1('readRows', [d, rows, start]) : null,
      null,
    ];
  },
  lower: {
    kind: 'map',
    weight: 2,
    at({ e, inputs: [cache, rows, start] }, index) {
      const count = boundOf(rows.type.shape[1]);
      if (count === 0) return cache.at(index);
      const row = e.add(index[1], [-1, e.cast(start.at([]), 'index')]);
      const inside = e.and(e.le(e.index(0), row), e.le(row, e.index(count - 1)));
      return e.select(
        inside,
        rows.at([index[0], e.select(inside, row, e.index(0)), ...index.slice(2)]),
        cache.at(index),
      );
    },
  },
  reference({ inputs: [cache, rows, [start]], inTypes: [tc, tr] }) {
    const out = cache.slice(),
      width = elements(tc.shape.slice(2)),
      [B, C] = tc.shape.map(boundOf),
      T = boundOf(tr.shape[1]);
    for (let b = 0; b < B; b++)
      for (let t = 0; t < T; t++) {
        if (start + t >= 0 && start + t < C)
          out.set(rows.subarray((b * T + t) * width, (b * T + t + 1) * width), (b * C + start + t) * width);
      }
    return [out];
  },
};

/** cache [B, C, ...rest], rows [B, T, ...rest], start int32 [] -> cache with the rows at start .. start + T - 1. */
export const updateRows = (cache: Tensor, rows: Tensor, start: Tensor): Tensor =>
  emit1('updateRows', [cache, rows, start]);
