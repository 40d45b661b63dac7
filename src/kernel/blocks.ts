// Reductions whose index is divided (the rows of a gather that is summed with the sum over its columns): in a block of
// 16 elements, which all partial sums take at once, quotients and remainders are one number, so that a block's elements
// lie next to each other.
import type { Exprs, Expr, Var } from './expr.ts';
import type { Blocks } from './kernel.ts';
import { runIndex, runLength, splitRuns } from './packing.ts';

/** Partial results of a reduction (DESIGN section 2). */
export const LANES = 16;

/** null where nothing is divided, or blocks do not help. */
export function blocksOf(e: Exprs, values: readonly Expr[], over: Var): Blocks | null {
  const lengths = values.flatMap((v) => runLength(v, over) ?? []);
  if (lengths.length === 0 || lengths.some((n) => n % LANES !== 0)) return null;
  const index = runIndex(e, over, LANES);
  return { index, values: values.map((v) => splitRuns(e, v, over, LANES, index).value) };
}
