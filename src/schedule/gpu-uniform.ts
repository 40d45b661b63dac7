// Which values are the same in all threads of a block. Only where they all take the same way may they meet at a
// barrier.
import { children, type Expr, type Var } from '../kernel/expr.ts';
import type { GpuKernel, GpuStmt } from './gpu-kernel.ts';

type Threads = Pick<GpuKernel, 'locals' | 'thread' | 'body'>;

/** Says of an expression whether threads of a block may compute different values for it. */
export function varyingIn({ locals, thread, body }: Threads): (e: Expr) => boolean {
  const vars = new Set<Var>([thread]),
    own = new Set<number>(); // locals of a thread that may differ
  locals.forEach((l, n) => {
    if (!l.shared && l.length > 0) own.add(n);
  });
  const memo = new Map<Expr, boolean>();
  const varies = (e: Expr): boolean => {
    const known = memo.get(e);
    if (known !== undefined) return known;
    const answer = (e.k === 'var' && vars.has(e)) || (e.k === 'local' && own.has(e.local)) || children(e).some(varies);
    memo.set(e, answer);
    return answer;
  };
  let before: number;
  do {
    before = vars.size + own.size;
    memo.clear();
    visit(body, false);
  } while (vars.size + own.size > before);
  return varies;

  /** apart: only some threads may run these statements. */
  function visit(stmts: readonly GpuStmt[], apart: boolean): void {
    for (const s of stmts) {
      if (s.s === 'if') visit(s.body, apart || varies(s.condition));
      if (s.s === 'for') {
        const alone = apart || varies(s.from) || varies(s.below);
        if (alone) vars.add(s.index);
        visit(s.body, alone);
      }
      if (s.s === 'set' && !locals[s.local].shared && (apart || varies(s.value))) own.add(s.local);
    }
  }
}
