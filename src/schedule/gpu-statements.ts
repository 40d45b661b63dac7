// Statements that one thread runs alone, and the parts that schedules for GPUs are made of.
import { VerifyError } from '../base/errors.ts';
import { postorder, type Expr, type Exprs, type Var } from '../kernel/expr.ts';
import type { Local, Stmt } from '../kernel/kernel.ts';
import type { GpuFor, GpuStmt } from './gpu-kernel.ts';
import { orderLoop } from './order.ts';

/** A loop over 0 to extent - 1 in one thread. */
export const serial = (e: Exprs, index: Var, extent: Expr, body: readonly GpuStmt[]): GpuFor => ({
  s: 'for',
  index,
  from: e.index(0),
  below: extent,
  step: 1,
  body,
});

/** A condition around statements; only the statements, or nothing, if it is known. */
export function when(condition: Expr, body: readonly GpuStmt[]): GpuStmt[] {
  if (condition.k !== 'const') return [{ s: 'if', condition, body }];
  return condition.value === 0 ? [] : [...body];
}

/** How often `size` fits into `value`, rounded up. */
export const ceilDiv = (e: Exprs, value: Expr, size: number): Expr => e.div(e.add(value, e.index(size - 1)), size);

/** The same statements in one thread, where loops follow one another. */
export function inThread(e: Exprs, body: readonly Stmt[]): GpuStmt[] {
  return body.map((s): GpuStmt => {
    switch (s.s) {
      case 'for':
        return serial(e, s.index, s.extent, inThread(e, s.body));
      case 'if':
        return { ...s, body: inThread(e, s.body) };
      case 'set':
      case 'store':
        return s;
      default:
        throw new VerifyError('schedule', `a statement '${s.s}' needs a block of threads, but stands in a single one`);
    }
  });
}

/** One thread scans an array. */
export const scansAsLoops = (e: Exprs, body: readonly Stmt[], locals: readonly Local[]): Stmt[] =>
  body.flatMap((s): readonly Stmt[] => {
    if (s.s === 'for' || s.s === 'if') return [{ ...s, body: scansAsLoops(e, s.body, locals) }];
    return s.s === 'scan' ? orderLoop(e, s, locals) : [s];
  });

/** Whether a block of threads runs the statement together. */
export const isTogether = (s: Stmt): boolean => {
  switch (s.s) {
    case 'for':
      return s.parallel || s.body.some(isTogether);
    case 'if':
      return s.body.some(isTogether);
    case 'set':
    case 'store':
      return false;
    default:
      return true;
  }
};

/** Calls `found` for a statement and all statements inside it. */
export function eachStmt(s: Stmt, found: (s: Stmt) => void): void {
  found(s);
  if (s.s === 'for' || s.s === 'if') for (const b of s.body) eachStmt(b, found);
}

/** The expressions that a statement computes, without those of the statements inside it. */
export function exprsOf(s: Stmt): Expr[] {
  switch (s.s) {
    case 'for':
      return [s.extent];
    case 'if':
      return [s.condition];
    case 'set':
      return s.index ? [s.index, s.value] : [s.value];
    case 'store':
      return [s.index, s.value];
    case 'reduce':
      return [s.extent, ...s.targets.map((t) => t.value)];
    case 'product':
      return [s.rows, s.depth, s.to.at, s.a.at, s.b.at];
    case 'transpose':
      return [s.rows, s.from.at];
    case 'histogram':
      return [s.extent, s.key];
    case 'rank':
      return [s.extent, s.value, ...s.body.flatMap((b) => [b.index, b.value])];
    case 'fill':
    case 'scan':
    case 'prefetch':
      return [];
  }
}

/** Numbers of the scalar locals that expressions read. */
export const scalarsIn = (values: readonly Expr[]): number[] =>
  postorder(values).flatMap((x) => (x.k === 'local' && x.index === null ? [x.local] : []));
