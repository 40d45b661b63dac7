// Statements as C-like text.
import type { Expr, Var } from '../../kernel/expr.ts';
import type { Local, StoreStmt } from '../../kernel/kernel.ts';
import type { CpuStmt } from '../../schedule/cpu-kernel.ts';
import type { Dialect } from './dialect.ts';
import { ExprWriter } from './expr.ts';
import { writeReduce } from './reduce.ts';
import { block, loop } from './text.ts';

/** Names of expressions that are computed already. */
export type Names = ReadonlyMap<Expr, string>;

/** Writes the statements of one kernel. */
export class StmtWriter {
  readonly #dialect: Dialect;
  readonly #locals: readonly Local[];

  constructor(dialect: Dialect, locals: readonly Local[]) {
    this.#dialect = dialect;
    this.#locals = locals;
  }

  /** Declares the kernel's locals. */
  declarations(): string[] {
    return this.#locals.map(({ dtype, length }, i) =>
      length ? this.#dialect.array(dtype, `t${i}`, length) : this.#dialect.variable(dtype, `t${i}`, null),
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
    const { hints } = this.#dialect,
      loops = body.some((s) => s.s === 'for' || s.s === 'reduce' || s.s === 'product' || s.s === 'transpose');
    const lines = [...(!vector && loops ? hints.outer : []), ...first, ...this.body(body, names)];
    return [...(vector ? hints.vector : []), ...loop(this.#dialect, 'index', index.name, end, lines, { from })];
  }

  body(stmts: readonly CpuStmt[], names: Names = new Map()): string[] {
    const out: string[] = [];
    for (let i = 0; i < stmts.length; i++) {
      const s = stmts[i];
      if (s.s === 'store') {
        const run = [s];
        for (let next = stmts[i + 1]; next?.s === 'store'; next = stmts[++i + 1]) run.push(next);
        out.push(...this.#stores(run, names));
      } else out.push(...this.#stmt(s, names));
    }
    return out;
  }

  /** Simultaneous stores: computes all values before the first store. */
  #stores(run: readonly StoreStmt[], names: Names): string[] {
    return this.#scope(names, (w) =>
      run.map((s) => {
        const v = w.value(s.value);
        return `b${s.buffer}[${w.value(s.index)}] = ${v};`;
      }),
    );
  }

  /** Lines after the values that they need, as a block if these have names. */
  #scope(names: Names, write: (w: ExprWriter) => readonly string[]): string[] {
    const w = new ExprWriter(this.#dialect, names),
      lines = write(w);
    return w.lines.length + lines.length > 1 ? block('', [...w.lines, ...lines]) : [...lines];
  }

  #stmt(s: Exclude<CpuStmt, { s: 'store' }>, names: Names): string[] {
    const d = this.#dialect;
    switch (s.s) {
      case 'for':
        return this.#scope(names, (w) => [
          d.constant('index', `end_${s.index.name}`, w.value(s.extent)),
          ...this.loop(s.index, '0', `end_${s.index.name}`, s.vector, s.body, names),
        ]);
      case 'if':
        return this.#scope(names, (w) => block(`if (${w.value(s.condition)}) `, this.body(s.body, names)));
      case 'set':
        return this.#scope(names, (w) => {
          const v = w.value(s.value);
          return [`t${s.local}${s.index ? `[${w.value(s.index)}]` : ''} = ${v};`];
        });
      case 'fill': {
        const { dtype, length } = this.#locals[s.local];
        return loop(d, 'index', 'f', `${length}`, [`t${s.local}[f] = ${d.literal(s.value, dtype)};`]);
      }
      case 'reduce':
        return writeReduce(d, s, names);
      case 'product':
      case 'transpose':
      case 'prefetch':
        return this.#scope(names, (w) => [d.core(s, (e) => w.value(e))]);
    }
  }
}
