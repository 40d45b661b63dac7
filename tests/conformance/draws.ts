// How the cases of a family are drawn: in the same way in Node and in a page.
import fc from 'fast-check';
import type { Case } from './harness.ts';
import type { Family } from './shapes.ts';

/** The seed of the draws, and a factor for their number. */
export interface Draws {
  readonly seed: number;
  readonly times: number;
}

export const title = (f: Family): string => (f.name ? `${f.op}, ${f.name}` : f.op);

/** Checks the cases of a family on a device. The error of a failed case names its draw. */
export const checkDraws = (
  f: Family,
  { seed, times }: Draws,
  check: (c: Case, seed: number) => Promise<void>,
): Promise<void> =>
  fc.assert(fc.asyncProperty(f.cases, fc.nat(), check), { seed, numRuns: Math.ceil((f.runs ?? 8) * times) });
