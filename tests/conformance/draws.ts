// Draws the cases of a family, in the same way in Node and in a browser page.
import fc from 'fast-check';
import type { Case } from './harness.ts';
import type { Family } from './shapes.ts';

/** The seed of the random cases, and a factor for their number. */
export interface Draws {
  readonly seed: number;
  readonly times: number;
}

export const title = (f: Family): string => (f.name ? `${f.op}, ${f.name}` : f.op);

/** Draws cases of a family and calls `check` with each. An error contains the case that failed. */
export const checkDraws = (
  f: Family,
  { seed, times }: Draws,
  check: (c: Case, seed: number) => Promise<void>,
): Promise<void> =>
  fc.assert(fc.asyncProperty(f.cases, fc.nat(), check), { seed, numRuns: Math.ceil((f.runs ?? 8) * times) });
