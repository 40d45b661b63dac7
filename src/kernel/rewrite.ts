// Questions about expressions, and substitution in them.
import { children, type Exprs, type Expr, type Scalar, type Term, type Var } from './expr.ts';

/**
 * Whether an expression depends on one of the variables or locals in `on`. Variables of its own reductions do not
 * count.
 */
export function dependsOn(e: Expr, on: ReadonlySet<Expr>, memo = new Map<Expr, boolean>()): boolean {
  const known = memo.get(e);
  if (known !== undefined) return known;
  const answer = on.has(e) || children(e).some((c) => dependsOn(c, on, memo));
  memo.set(e, answer);
  return answer;
}

/** Rebuilds an expression with some of its sub-expressions replaced. */
export function substitute(x: Exprs, e: Expr, by: ReadonlyMap<Expr, Expr>, memo = new Map<Expr, Expr>()): Expr {
  const found = by.get(e) ?? memo.get(e);
  if (found) return found;
  const go = (c: Expr): Expr => substitute(x, c, by, memo);
  const made = children(e).every((c) => go(c) === c) ? e : rebuild(x, e, go);
  memo.set(e, made);
  return made;
}

/** An expression of the same kind, with other operands. */
function rebuild(x: Exprs, e: Expr, go: (e: Expr) => Expr): Expr {
  switch (e.k) {
    case 'load':
      return x.load(e.buffer, go(e.index), e.dtype);
    case 'local':
      return x.local(e.local, e.dtype, e.index && go(e.index));
    case 'linear':
      return x.linear(
        e.constant,
        e.terms.map(([c, t]): Term => [c, go(t)]),
      );
    case 'op':
      if (e.dtype === 'index' && e.args[1]?.k === 'const') {
        if (e.op === 'div') return x.div(go(e.args[0]), e.args[1].value);
        if (e.op === 'mod') return x.mod(go(e.args[0]), e.args[1].value);
      }
      return x.op(e.op, e.args.map(go), e.dtype);
    case 'reduce':
      return x.reduceOver(e.op, e.order, go(e.extent), go(e.index) as Var, go(e.body), e.parts);
    default:
      return e;
  }
}

/** The same expression made by `x`: expressions of one kernel must come from one `Exprs`. */
export function transplant(x: Exprs, e: Expr, memo: Map<Expr, Expr>): Expr {
  const found = memo.get(e);
  if (found) return found;
  const go = (c: Expr): Expr => transplant(x, c, memo);
  const made = remade(x, e, go);
  memo.set(e, made);
  return made;
}

function remade(x: Exprs, e: Expr, go: (e: Expr) => Expr): Expr {
  switch (e.k) {
    case 'var':
      return x.adopt(e);
    case 'const':
      return x.const(e.value, e.dtype);
    case 'int':
      return x.int(e.slot);
    case 'sum':
      return x.sum(e.dtype);
    default:
      return rebuild(x, e, go);
  }
}

/** Reductions of the given order below `roots`, inner ones first. */
export function reductions(roots: readonly Expr[], order: 'lanes' | 'serial'): Extract<Expr, { k: 'reduce' }>[] {
  const seen = new Set<Expr>(),
    found: Extract<Expr, { k: 'reduce' }>[] = [];
  const visit = (e: Expr): void => {
    if (seen.has(e)) return;
    seen.add(e);
    children(e).forEach(visit);
    if (e.k === 'reduce' && e.order === order) found.push(e);
  };
  roots.forEach(visit);
  return found;
}

/**
 * The largest sub-expressions that do not depend on `inner` and that cost something (a load or an operation): a loop
 * over `inner` need not compute them again.
 */
export function invariants(roots: readonly Expr[], inner: ReadonlySet<Expr>): Expr[] {
  const memo = new Map<Expr, boolean>(),
    seen = new Set<Expr>(),
    found: Expr[] = [];
  const visit = (e: Expr): void => {
    if (seen.has(e)) return;
    seen.add(e);
    if (!dependsOn(e, inner, memo)) {
      if (e.k === 'load' || e.k === 'op') found.push(e);
      else if (e.k === 'linear') children(e).forEach(visit);
    } else children(e).forEach(visit);
  };
  roots.forEach(visit);
  return found;
}

export const asSet = (...vars: readonly (Var | Expr)[]): ReadonlySet<Expr> => new Set<Expr>(vars);

/** The coefficient of a variable in a linear index; null if the index depends on the variable in another way. */
export function strideOf(index: Expr, v: Var): number | null {
  if (index === v) return 1;
  if (index.k !== 'linear') return dependsOn(index, new Set([v])) ? null : 0;
  let stride = 0;
  for (const [c, t] of index.terms) {
    if (t === v) stride = c;
    else if (dependsOn(t, new Set([v]))) return null;
  }
  return stride;
}

/** Whether elements with neighbouring values of a variable lie next to each other in memory. */
export function contiguous(e: Expr, v: Var): boolean {
  if (e.k === 'load' && strideOf(e.index, v) === 1) return true;
  return e.k === 'op' && e.args.some((x) => contiguous(x, v));
}

/** Whether machines may divide these integers in another way than the kernel language says: by 0 or -1. */
export const needsCare = (of: Scalar, by: Expr): boolean =>
  (of === 'int32' || of === 'uint32') && !(by.k === 'const' && by.value !== 0 && by.value !== -1);
