// Histogram, scan and rank (kernel/kernel.ts) as loops that follow one another.
import type { Expr, Exprs } from '../kernel/expr.ts';
import type { HistogramStmt, Local, RankStmt, ScanStmt, SetStmt, Stmt } from '../kernel/kernel.ts';

const set = (local: number, index: Expr | null, value: Expr): SetStmt => ({ s: 'set', local, index, value });

/** Element `key` of an int32 array, and the statement that makes it one more. */
function counter(e: Exprs, local: number, key: Expr): { readonly value: Expr; readonly next: SetStmt } {
  const index = e.cast(key, 'index'),
    value = e.local(local, 'int32', index);
  return { value, next: set(local, index, e.op('add', [value, e.const(1, 'int32')])) };
}

/** What an iteration of a histogram does. */
export const histogramStep = (e: Exprs, { to, key }: HistogramStmt): Stmt[] => [counter(e, to, key).next];

/** What an iteration of a rank does; its key is set already. */
export function rankStep(e: Exprs, { key, place, next, body }: RankStmt): Stmt[] {
  const own = counter(e, next, e.local(key, 'int32'));
  return [set(place, null, own.value), own.next, ...body];
}

/** Sets the key of an iteration of a rank. */
export const rankKey = ({ key, value }: RankStmt): SetStmt => set(key, null, value);

/** The same statement as a loop. */
export function orderLoop(e: Exprs, s: HistogramStmt | ScanStmt | RankStmt, locals: readonly Local[]): readonly Stmt[] {
  const loop = (index: HistogramStmt['index'], extent: Expr, body: readonly Stmt[]): Stmt => ({
    s: 'for',
    index,
    extent,
    parallel: false,
    body,
  });
  switch (s.s) {
    case 'histogram':
      return [loop(s.index, s.extent, histogramStep(e, s))];
    case 'rank':
      return [loop(s.index, s.extent, [rankKey(s), ...rankStep(e, s)])];
    case 'scan': {
      const { length } = locals[s.array],
        index = e.loop(length),
        own = e.local(s.array, 'int32', index),
        total = e.local(s.total, 'int32');
      return [
        set(s.total, null, e.const(0, 'int32')),
        loop(index, e.index(length), [
          set(s.total, null, e.op('add', [total, own])),
          set(s.array, index, e.op('sub', [total, own])),
        ]),
      ];
    }
  }
}
