// How a family's cases are drawn, the same wherever it runs: in Node, in a page.
import fc from 'fast-check';
import type { Case } from './harness.ts';
import type { Family } from './shapes.ts';

/** The seed of the draws, and what their usual number is multiplied with. */
export interface Draws {
  readonly seed: number;
  readonly times: number;
}

export const title = (f: Family): string => (f.name ? `${f.op}, ${f.name}` : f.op);

/** Checks as many cases of a family as are due on a device. The error of a case that fails names its draw. */
export const checkDraws = (
  f: Family,
  { seed, times }: Draws,
  check: (c: Case, seed: number) => Promise<void>,
): Promise<void> =>
  fc.assert(fc.asyncProperty(f.cases, fc.nat(), check), { seed, numRuns: Math.ceil((f.runs ?? 8) * times) });
