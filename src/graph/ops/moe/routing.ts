// What ops on routed rows share. A token has k choices of an expert; choice j of token t has number t * k + j. Rows are
// the choices sorted by expert, and within an expert by number (token order): row r is choice order[r], and choice c is
// row inverse[c]. With `gaps` (`admit`), order[r] < 0 means an empty row, which holds zeros, and inverse[c] < 0 a
// dropped choice, which contributes nothing.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, elements, showType, type Segmented, type TensorType } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { MapCall, Reader, RefCall } from '../../op.ts';

/** Checks an int32 vector, of `length` elements if that is given. */
export function checkVector(op: string, what: string, t: TensorType | undefined, length?: number): void {
  if (!t) throw new ShapeError(`${op}: the input ${what} is missing`);
  if (t.dtype !== 'int32' || t.shape.length !== 1 || (length !== undefined && boundOf(t.shape[0]) !== length)) {
    throw new ShapeError(`${op}: ${what} must be int32[${length ?? 'n'}], got ${showType(t)}`);
  }
}

/** The dimension of rows in segments: as many rows as there are choices. */
export function rowsDim(
  op: string,
  order: TensorType,
  offsets: TensorType,
  offsetsId: number,
  usual?: number,
): Segmented {
  checkVector(op, 'order', order);
  checkVector(op, 'offsets', offsets);
  const bound = boundOf(order.shape[0]);
  return {
    kind: 'segmented',
    bound,
    segments: boundOf(offsets.shape[0]) - 1,
    offsets: offsetsId,
    ...(usual !== undefined && usual !== bound && { usual }),
  };
}

/** Sums over up to so many choices of a token are written out, without a loop. */
export const MOST_CHOICES = 16;

export function segmentsOf(op: string, t: TensorType): Segmented {
  const d = t.shape[0];
  if (d === undefined || typeof d === 'number' || d.kind !== 'segmented')
    throw new ShapeError(`${op}: needs rows in segments, got ${showType(t)}`);
  return d;
}

/**
 * The value at one of `size` places, or `none` if the place is below 0: `value` always gets a valid place. If there are
 * no places at all, nothing is read: the index may itself come from memory.
 */
export function ifThere(
  call: Pick<MapCall, 'e'>,
  gaps: boolean | undefined,
  size: number,
  place: Expr,
  none: Expr,
  value: (place: Expr) => Expr,
): Expr {
  if (size === 0) return none;
  if (!gaps) return value(place);
  const { e } = call,
    there = e.le(e.index(0), place);
  return e.select(there, value(e.select(there, place, e.index(0))), none);
}

/** An int32 element as an index. */
export const indexAt = ({ e }: Pick<MapCall, 'e'>, x: Reader, at: readonly Expr[]): Expr => e.cast(x.at(at), 'index');

/**
 * For references: row r of the result is row `from(r)` of x, or zeros where that is negative. Rows beyond the last of
 * this run are NaN.
 */
export function gatheredRows(
  { rows }: Pick<RefCall, 'rows'>,
  x: Float64Array,
  to: TensorType,
  from: (row: number) => number,
): Float64Array {
  const width = elements(to.shape.slice(1)),
    out = new Float64Array(elements(to.shape)).fill(NaN);
  for (let r = 0; r < rows(to); r++) {
    const at = from(r) * width;
    if (at < 0) out.fill(0, r * width, (r + 1) * width);
    else out.set(x.subarray(at, at + width), r * width);
  }
  return out;
}
