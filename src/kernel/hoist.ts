// Takes what does not change inside a loop out of it: such a value is computed once, before the loop, into a local.
import type { Exprs, Expr } from './expr.ts';
import type { Local, SetStmt } from './kernel.ts';
import { invariants, substitute } from './rewrite.ts';

/** What is stored: `value` at index `at` of a buffer. */
export interface Item {
  readonly buffer: number;
  readonly at: Expr;
  readonly value: Expr;
}

/** The parts of `values` that depend on none of `inner` become locals, which `before` sets. */
export function hoistValues(
  e: Exprs,
  values: readonly Expr[],
  inner: ReadonlySet<Expr>,
  locals: Local[],
): { before: SetStmt[]; values: Expr[] } {
  const by = new Map<Expr, Expr>(),
    before: SetStmt[] = [];
  for (const v of invariants(values, inner)) {
    const local = locals.push({ dtype: v.dtype, length: 0 }) - 1;
    before.push({ s: 'set', local, index: null, value: v });
    by.set(v, e.local(local, v.dtype));
  }
  const memo = new Map<Expr, Expr>();
  return { before, values: values.map((v) => substitute(e, v, by, memo)) };
}

/** The same for what is stored. */
export function hoistInvariants(
  e: Exprs,
  items: readonly Item[],
  inner: ReadonlySet<Expr>,
  locals: Local[],
): { before: SetStmt[]; items: Item[] } {
  // The indices of stores are hoisted too: an index then stays the same expression in reads and in stores.
  const { before, values } = hoistValues(
    e,
    items.flatMap((i) => [i.value, i.at]),
    inner,
    locals,
  );
  return { before, items: items.map((i, n) => ({ ...i, value: values[2 * n], at: values[2 * n + 1] })) };
}
