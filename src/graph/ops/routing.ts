// What ops on routed rows share. A token has k choices of an expert; choice j of token t has number t * k + j. Rows are the choices
// sorted by expert, within an expert by number (token order): row r is choice order[r], and choice c is row inverse[c].
import { ShapeError } from '../../base/errors.ts';
import { boundOf, showType, type Segmented, type TensorType } from '../../base/shape.ts';
import type { Expr } from '../../kernel/expr.ts';
import type { MapCall, Reader } from '../op.ts';

/** Checks an int32 vector, of `length` elements if that is given. */
export function checkVector(op: string, what: string, t: TensorType, length?: number): void {
  if (t.dtype !== 'int32' || t.shape.length !== 1 || (length !== undefined && boundOf(t.shape[0]) !== length)) {
    throw new ShapeError(`${op}: ${what} must be int32[${length ?? 'n'}], got ${showType(t)}`);
  }
}

/** The dimension of rows that are sorted into segments: as many as there are choices. */
export function rowsDim(op: string, order: TensorType, offsets: TensorType, offsetsId: number): Segmented {
  checkVector(op, 'order', order);
  checkVector(op, 'offsets', offsets);
  return { kind: 'segmented', bound: boundOf(order.shape[0]), segments: boundOf(offsets.shape[0]) - 1, offsets: offsetsId };
}

export function segmentsOf(op: string, t: TensorType): Segmented {
  const d = t.shape[0];
  if (d === undefined || typeof d === 'number' || d.kind !== 'segmented') throw new ShapeError(`${op}: needs rows in segments, got ${showType(t)}`);
  return d;
}

/** An int32 element as an index. */
export const indexAt = ({ e }: Pick<MapCall, 'e'>, x: Reader, at: readonly Expr[]): Expr => e.op('cast', [x.at(at)], 'index');
