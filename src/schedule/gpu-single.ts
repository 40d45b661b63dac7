// Which scalars of a kernel have to lie in shared memory. Code that stores or sets arrays outside parallel loops runs
// in one thread of the block; scalars that it sets, and that other code reads, are shared.
import type { Local, Stmt } from '../kernel/kernel.ts';
import { eachStmt, exprsOf, isTogether, scalarsIn } from './gpu-statements.ts';

export interface Single {
  /** Numbers of the shared scalars. */
  readonly scalars: ReadonlySet<number>;
  /** Whether one thread runs the statement. */
  has(s: Stmt): boolean;
}

export function singleThread(body: readonly Stmt[], locals: readonly Local[]): Single {
  const scalars = new Set<number>();
  const has = (s: Stmt): boolean => {
    if (isTogether(s)) return false;
    let writes = false;
    eachStmt(s, (b) => {
      writes ||= b.s === 'store' || (b.s === 'set' && (locals[b.local].length > 0 || scalars.has(b.local)));
    });
    return writes;
  };
  for (let known = -1; known < scalars.size;) {
    known = scalars.size;
    const set = new Set<number>(),
      read = new Set<number>();
    const visit = (s: Stmt): void => {
      if (has(s)) {
        eachStmt(s, (b) => {
          if (b.s === 'set' && b.index === null) set.add(b.local);
        });
        return;
      }
      for (const n of scalarsIn(exprsOf(s))) read.add(n);
      if (s.s === 'for' || s.s === 'if') s.body.forEach(visit);
    };
    body.forEach(visit);
    for (const n of set) if (read.has(n)) scalars.add(n);
  }
  return { scalars, has };
}
