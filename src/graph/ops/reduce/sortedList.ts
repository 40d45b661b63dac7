// A sorted list of the k largest elements so far of a row, or of 16 rows in lanes, and their columns: what topK and
// topKUnless search with. Of equal elements the one that came first is kept first; NaN counts as -Infinity.
import type { Expr, Scalar } from '../../../kernel/expr.ts';
import type { Stmt } from '../../../kernel/kernel.ts';
import type { LoopCall } from '../../op.ts';

export interface SortedList {
  readonly clear: Stmt;
  /** Makes element v of column c the candidate. */
  take(v: Expr, c: Expr): Stmt[];
  /**
   * If the candidate is larger than the element in place j, or that place is empty, the two change places; the rest of
   * the list then moves on by one.
   */
  insert(j: Expr, lane: Expr): Stmt[];
  /** With one lane: takes an element, and inserts it where it belongs, if it belongs in the list. */
  consider(v: Expr, c: Expr): Stmt[];
  /** The column in place j. */
  at(j: Expr, lane: Expr): Expr;
}

export function sortedList(
  { e, k: w }: Pick<LoopCall, 'e' | 'k'>,
  dtype: Scalar,
  k: number,
  lanes: number,
): SortedList {
  const best = w.array(dtype, k * lanes),
    where = w.array('int32', k * lanes); // [k][lanes]
  const value = w.scalar(dtype),
    index = w.scalar('int32'),
    old = w.scalar(dtype),
    oldIndex = w.scalar('int32'),
    goes = w.scalar('int32');
  const least = e.const(-Infinity, dtype),
    zero = e.const(0, 'int32'),
    last = e.index(k - 1);
  const place = (j: Expr, lane: Expr): Expr => e.add([lanes, j], lane),
    pick = (a: Expr, b: Expr): Expr => e.select(goes.get(), a, b),
    enters = (than: Expr, at: Expr): Expr => e.or(e.lt(than, value.get()), e.lt(at, zero));
  const list: SortedList = {
    clear: w.vector(k * lanes, (i) => [best.set(i, least), where.set(i, e.const(-1, 'int32'))]),
    take: (v, c) => [value.set(e.select(e.eq(v, v), v, least)), index.set(e.cast(c, 'int32')), goes.set(zero)],
    insert: (j, lane) => [
      old.set(best.at(place(j, lane))),
      oldIndex.set(where.at(place(j, lane))),
      goes.set(e.or(goes.get(), e.cast(enters(old.get(), oldIndex.get()), 'int32'))),
      best.set(place(j, lane), pick(value.get(), old.get())),
      where.set(place(j, lane), pick(index.get(), oldIndex.get())),
      value.set(pick(old.get(), value.get())),
      index.set(pick(oldIndex.get(), index.get())),
    ],
    consider: (v, c) => [
      ...list.take(v, c),
      w.when(enters(best.at(last), where.at(last)), [w.loop(k, (j) => list.insert(j, e.index(0)))]),
    ],
    at: (j, lane) => where.at(place(j, lane)),
  };
  return list;
}
