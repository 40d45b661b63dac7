// Statements of a CPU's kernels as C-like text.
import type { Var } from '../../kernel/expr.ts';
import type { CpuStmt } from '../../schedule/cpu-kernel.ts';
import { BodyWriter, type Names } from './body.ts';
import { writeReduce } from './reduce.ts';
import { loop } from './text.ts';

/** Writes the statements of one kernel. */
export class StmtWriter extends BodyWriter<Exclude<CpuStmt, { s: 'if' | 'set' | 'store' }>> {
  /** Declares the kernel's locals. */
  declarations(): string[] {
    return this.locals.map(({ dtype, length }, i) =>
      length ? this.dialect.array(dtype, `t${i}`, length) : this.dialect.variable(dtype, `t${i}`, null),
    );
  }

  /** A loop of the kernel language. `first`: lines before its body. */
  loop(
    index: Var,
    from: string,
    end: string,
    vector: boolean,
    body: readonly CpuStmt[],
    names?: Names,
    first: readonly string[] = [],
  ): string[] {
    const { hints } = this.dialect,
      loops = body.some((s) => s.s === 'for' || s.s === 'reduce' || s.s === 'product' || s.s === 'transpose');
    const lines = [...(!vector && loops ? hints.outer : []), ...first, ...this.body(body, names)];
    return [...(vector ? hints.vector : []), ...loop(this.dialect, 'index', index.name, end, lines, { from })];
  }

  protected override own(s: Exclude<CpuStmt, { s: 'if' | 'set' | 'store' }>, names: Names): string[] {
    const d = this.dialect;
    switch (s.s) {
      case 'for':
        return this.scope(names, (w) => [
          d.constant('index', `end_${s.index.name}`, w.value(s.extent)),
          ...this.loop(s.index, '0', `end_${s.index.name}`, s.vector, s.body, names),
        ]);
      case 'fill': {
        const { dtype, length } = this.locals[s.local];
        return loop(d, 'index', 'f', `${length}`, [`t${s.local}[f] = ${d.literal(s.value, dtype)};`]);
      }
      case 'reduce':
        return writeReduce(d, s, names);
      case 'product':
      case 'transpose':
      case 'prefetch':
        return this.scope(names, (w) => [d.core(s, (e) => w.value(e))]);
    }
  }
}
