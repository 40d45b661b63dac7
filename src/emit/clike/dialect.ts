// What differs between languages whose text looks like C. The printer (expr.ts, stmt.ts) writes everything else: names
// of values, operators, loops, ifs, stores, the order of summation.
import type { Expr, OpExpr, Scalar } from '../../kernel/expr.ts';
import type { CpuStmt } from '../../schedule/cpu-kernel.ts';

/** Statements that a device runs by code of its own. */
export type CoreStmt = Extract<CpuStmt, { s: 'product' | 'transpose' | 'prefetch' }>;

export interface Dialect {
  /** The type of a value in the text: that of the expression, or for an index a narrower one that holds its values. */
  typeOf(e: Expr): Scalar;
  literal(value: number, dtype: Scalar): string;
  /** Declares a named value that does not change. */
  constant(dtype: Scalar, name: string, value: string): string;
  /** Declares a variable: with a first value, or without one (null). */
  variable(dtype: Scalar, name: string, value: string | null): string;
  array(dtype: Scalar, name: string, length: number): string;
  /** The text before the body of a function of one argument, whose result has the argument's type. */
  functionHead(name: string, dtype: Scalar, argument: string): string;
  /** A conversion: floats to integers are truncated and clamped, NaN becomes 0; integers keep their bits. */
  cast(to: Scalar, from: Scalar, value: string): string;
  select(condition: string, yes: string, no: string): string;
  /** An operation that this language writes in its own way; null for operators that every language has. */
  operation(e: OpExpr, args: readonly string[]): string | null;
  /** A call of the device's own code. */
  core(s: CoreStmt, value: (e: Expr) => string): string;
  /** Lines before a loop whose iterations are independent, and at the start of the body of a loop around loops. */
  readonly hints: { readonly vector: readonly string[]; readonly outer: readonly string[] };
}
