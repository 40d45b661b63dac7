// Reductions whose index is divided (for example, the rows of a gather that is summed with the sum over its columns).
// In a block of 16 elements, which are added to the 16 partial sums at once, every quotient and remainder is one
// number, so the elements of a block lie next to each other in memory.
import type { Exprs, Expr, Var } from '../kernel/expr.ts';
import type { Blocks } from './cpu-kernel.ts';
import { runIndex, runLength, splitRuns } from './packing.ts';

/** Number of partial results of a reduction (docs/architecture/lowering.md). */
export const LANES = 16;

/** Null where no index is divided, or where blocks do not help. */
export function blocksOf(e: Exprs, values: readonly Expr[], over: Var): Blocks | null {
  const lengths = values.flatMap((v) => runLength(v, over) ?? []);
  if (lengths.length === 0 || lengths.some((n) => n % LANES !== 0)) return null;
  const index = runIndex(e, over, LANES);
  return { index, values: values.map((v) => splitRuns(e, v, over, LANES, index).value) };
}
