// Statements that the schedules for all machines have, as C-like text.
import type { Expr } from '../../kernel/expr.ts';
import type { IfStmt, Local, SetStmt, StoreStmt } from '../../kernel/kernel.ts';
import type { Dialect } from './dialect.ts';
import { ExprWriter } from './expr.ts';
import { block } from './text.ts';

/** Names of expressions that are computed already. */
export type Names = ReadonlyMap<Expr, string>;

/** Statements of a schedule. `Own`: those that only this kind of schedule has. */
type Any<Own> = Own | IfStmt<Any<Own>> | SetStmt | StoreStmt;
interface Kind {
  readonly s: string;
}
const isStore = (s: Kind | undefined): s is StoreStmt => s?.s === 'store';
const isSet = (s: Kind): s is SetStmt => s.s === 'set';
const isIf = <S>(s: S | IfStmt<S>): s is IfStmt<S> => (s as Kind).s === 'if';

/** Writes the statements of one kernel. */
export abstract class BodyWriter<Own extends Kind> {
  protected readonly dialect: Dialect;
  protected readonly locals: readonly Local[];

  constructor(dialect: Dialect, locals: readonly Local[]) {
    this.dialect = dialect;
    this.locals = locals;
  }

  /** A statement that only schedules of this kind have. */
  protected abstract own(s: Own, names: Names): string[];

  body(stmts: readonly Any<Own>[], names: Names = new Map()): string[] {
    const out: string[] = [];
    for (let i = 0; i < stmts.length;) {
      const s = stmts[i++];
      if (isStore(s)) {
        const run = [s];
        for (let next = stmts.at(i); isStore(next); next = stmts.at(++i)) run.push(next);
        out.push(...this.#stores(run, names));
      } else if (isSet(s)) out.push(...this.#set(s, names));
      else if (isIf<Any<Own>>(s))
        out.push(...this.scope(names, (w) => block(`if (${w.value(s.condition)}) `, this.body(s.body, names))));
      else out.push(...this.own(s, names));
    }
    return out;
  }

  /** Simultaneous stores: computes all values before the first store. */
  #stores(run: readonly StoreStmt[], names: Names): string[] {
    return this.scope(names, (w) =>
      run.map((s) => {
        const v = w.value(s.value);
        return `b${s.buffer}[${w.value(s.index)}] = ${v};`;
      }),
    );
  }

  #set({ local, index, value }: SetStmt, names: Names): string[] {
    return this.scope(names, (w) => {
      const v = w.value(value);
      return [`t${local}${index ? `[${w.value(index)}]` : ''} = ${v};`];
    });
  }

  /** Lines after the values that they need, as a block if these have names. */
  protected scope(names: Names, write: (w: ExprWriter) => readonly string[]): string[] {
    const w = new ExprWriter(this.dialect, names),
      lines = write(w);
    return w.lines.length + lines.length > 1 ? block('', [...w.lines, ...lines]) : [...lines];
  }
}
