// Checks a Kernel: buffers, locals and integers exist; stores go to buffers that may be written; no reduction is left
// inside an expression; variables are used inside their loops.
import { VerifyError } from '../base/errors.ts';
import { postorder, type Expr, type Var } from './expr.ts';
import type { CommonStmt, Kernel, Matrix, ProductStmt, ReduceStmt, Stmt, TransposeStmt } from './kernel.ts';

/** Variables that are defined where a statement stands; in the epilogue of a matmul also the finished sum. */
export interface Scope {
  readonly vars: ReadonlySet<Var>;
  readonly sum: boolean;
}

export const scopeOf = (...vars: readonly Var[]): Scope => ({ vars: new Set(vars), sum: false });
export const within = (scope: Scope, ...vars: readonly Var[]): Scope => ({
  ...scope,
  vars: new Set([...scope.vars, ...vars]),
});

/** Checks what kernels have in common before and after scheduling. Throws VerifyError that names `stage`. */
export class KernelChecker {
  readonly #stage: string;
  readonly #k: Pick<Kernel, 'buffers' | 'locals' | 'ints'>;

  constructor(stage: string, kernel: Pick<Kernel, 'buffers' | 'locals' | 'ints'>) {
    this.#stage = stage;
    this.#k = kernel;
  }

  fail(message: string): never {
    throw new VerifyError(this.#stage, message);
  }

  exprs(list: readonly Expr[], { vars, sum }: Scope): void {
    const { buffers, locals, ints } = this.#k;
    for (const x of postorder(list)) {
      if (x.k === 'var' && !vars.has(x)) this.fail(`${x.name} is used outside its loop`);
      if (x.k === 'load' && !buffers[x.buffer]) this.fail(`no buffer ${x.buffer}`);
      if (x.k === 'load' && buffers[x.buffer].access === 'write')
        this.fail(`buffer ${x.buffer} is read, but its access is 'write' (lower: { update: true } allows both)`);
      if (x.k === 'local' && !locals[x.local]) this.fail(`no local ${x.local}`);
      if (x.k === 'int' && x.slot >= ints) this.fail(`no integer ${x.slot}`);
      if (x.k === 'reduce') this.fail('a reduction stands inside an expression');
      if (x.k === 'sum' && !sum) this.fail('the sum of a matmul is used outside its epilogue');
    }
  }

  matrix(m: Matrix, scope: Scope): void {
    if (!(m.in === 'local' ? this.#k.locals : this.#k.buffers)[m.of]) this.fail(`no ${m.in} ${m.of}`);
    this.exprs([m.at], scope);
  }

  product({ rows, depth, to, a, b }: Pick<ProductStmt, 'rows' | 'depth' | 'to' | 'a' | 'b'>, scope: Scope): void {
    this.exprs([rows, depth], scope);
    for (const m of [to, a, b]) this.matrix(m, scope);
    if (to.in === 'buffer' && this.#k.buffers[to.of].access !== 'update')
      this.fail(`a product adds to buffer ${to.of}, whose access is not 'update'`);
  }

  transpose({ rows, from, to }: Pick<TransposeStmt, 'rows' | 'from' | 'to'>, scope: Scope): void {
    this.local(to);
    this.exprs([rows], scope);
    this.matrix(from, scope);
  }

  local(n: number): void {
    if (!this.#k.locals[n]) this.fail(`no local ${n}`);
  }

  /** Locals that must be int32. */
  ints(...locals: readonly number[]): void {
    for (const n of locals) {
      this.local(n);
      if (this.#k.locals[n].dtype !== 'int32') this.fail(`local ${n} must be int32`);
    }
  }

  reduce(s: ReduceStmt, scope: Scope): void {
    this.exprs([s.extent], scope);
    for (const t of s.targets) this.exprs([t.value], within(scope, s.index));
  }

  /** `body` checks the statements inside one. */
  common<S>(s: CommonStmt<S>, scope: Scope, body: (stmts: readonly S[], scope: Scope) => void): void {
    switch (s.s) {
      case 'if':
        this.exprs([s.condition], scope);
        body(s.body, scope);
        break;
      case 'set':
        this.local(s.local);
        this.exprs(s.index ? [s.value, s.index] : [s.value], scope);
        break;
      case 'fill':
        this.local(s.local);
        break;
      case 'store':
        if (!this.#k.buffers[s.buffer]) this.fail(`no buffer ${s.buffer}`);
        if (this.#k.buffers[s.buffer].access === 'read')
          this.fail(`a store goes to buffer ${s.buffer}, whose access is 'read'`);
        this.exprs([s.value, s.index], scope);
        break;
    }
  }
}

export function verifyKernel(k: Kernel): Kernel {
  const check = new KernelChecker('kernel', k);
  const all = (body: readonly Stmt[], scope: Scope): void => {
    for (const s of body) statement(s, scope);
  };
  const statement = (s: Stmt, scope: Scope): void => {
    switch (s.s) {
      case 'for':
        check.exprs([s.extent], scope);
        all(s.body, within(scope, s.index));
        break;
      case 'reduce':
        check.reduce(s, scope);
        break;
      case 'transpose':
        check.transpose(s, scope);
        break;
      case 'prefetch':
        check.exprs([s.rows], scope);
        check.matrix(s.from, scope);
        break;
      case 'product':
        check.product(s, scope);
        break;
      case 'histogram':
        check.ints(s.to);
        check.exprs([s.extent], scope);
        check.exprs([s.key], within(scope, s.index));
        break;
      case 'scan':
        check.ints(s.array, s.total);
        break;
      case 'rank':
        check.ints(s.key, s.place, s.next);
        check.exprs([s.extent], scope);
        check.exprs([s.value], within(scope, s.index));
        all(s.body, within(scope, s.index));
        break;
      default:
        check.common(s, scope, all);
    }
  };
  if (k.form === 'loops') {
    check.exprs([k.grid.extent], scopeOf());
    all(k.body, scopeOf(k.grid.index));
    return k;
  }
  if (k.parts && typeof k.depth === 'object' && 'offsets' in k.depth) check.fail('a depth in groups has no parts');
  check.exprs([k.a], scopeOf(k.z, k.i, k.k));
  check.exprs([k.b], scopeOf(k.z, k.k, k.j));
  all(k.epilogue.row, scopeOf(k.z, k.i));
  for (const s of k.epilogue.element)
    if (s.s !== 'store') check.fail(`an epilogue has a statement '${s.s}' for each element, where only stores may be`);
  all(k.epilogue.element, { ...scopeOf(k.z, k.i, k.j), sum: true });
  return k;
}
