// Writes the rows of some steps into a cache, for keys and values of attention. Rows that would lie outside the cache
// are left out.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, isDynamic, sameShape, showType, type Dim, type TensorType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, zeros, type Tensor } from '../../tensor.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    updateRows: NoAttrs;
  }
}

/** Whether `rows` are those of one sequence, whose number varies: they lack the first axis of the cache. */
export const areCounted = ({ shape }: TensorType): boolean => isDynamic(shape);

/**
 * Checks that `rows` are some of the cache's along axis 1, or a varying number of them, and `start` a whole number.
 */
export function checkCache(op: string, cache: TensorType, rows: TensorType, start: TensorType): void {
  const [first] = rows.shape,
    all = areCounted(rows) ? [1, ...rows.shape] : rows.shape,
    several = typeof first === 'object' && first.kind === 'segmented' && first.segments !== 1;
  const rest = (shape: readonly Dim[]): readonly Dim[] => [shape[0], ...shape.slice(2)];
  if (
    cache.shape.length < 2 ||
    isDynamic(cache.shape) ||
    cache.shape.length !== all.length ||
    !sameShape(rest(cache.shape), rest(all)) ||
    cache.dtype !== rows.dtype ||
    several
  ) {
    throw new ShapeError(
      `${op}: rows ${showType(rows)} do not fit the cache ${showType(cache)}`,
      'they may differ in axis 1 only; rows of one sequence, [rows, ..], fit a cache [1, C, ..]',
    );
  }
  if (start.dtype !== 'int32' || start.shape.length !== 0)
    throw new ShapeError(`${op}: start must be an int32 scalar, got ${showType(start)}`);
}

export const updateRowsOp: Op = {
  // Cache with rows[:, t] at [:, start + t]; counted rows have no first axis, which is 1.
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
    at({ e, inputs: [cache, rows, start], extent }, index) {
      const counted = areCounted(rows.type),
        axis = counted ? 0 : 1;
      if (boundOf(rows.type.shape[axis]) === 0) return cache.at(index);
      const row = e.add(index[1], [-1, e.cast(start.at([]), 'index')]),
        last = e.add(extent(rows.type, axis), -1),
        inside = e.and(e.le(e.index(0), row), e.le(row, last));
      const at = [e.select(inside, row, e.index(0)), ...index.slice(2)];
      return e.select(inside, rows.at(counted ? at : [index[0], ...at]), cache.at(index));
    },
  },
};

/**
 * cache [B, C, ...rest], rows [B, T, ...rest], start int32 [] -> cache with the rows at start .. start + T - 1. For
 * B = 1 the rows may be [rows, ...rest], whose number varies.
 */
export const updateRows = (cache: Tensor, rows: Tensor, start: Tensor): Tensor =>
  emit1('updateRows', [cache, rows, start]);
