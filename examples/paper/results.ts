// Summarises the results of several seeds. In: results. Out: medians with their ranges, and comparisons of rows. Rows
// are compared seed by seed: two rows with one seed start from the same values and get the same batches in the same
// order.
import type { Failure, Result } from './contest.ts';
import { ADAPT, DEFAULT, ROWS } from './rows.ts';

export interface Spread {
  readonly median: number;
  readonly least: number;
  readonly most: number;
}

export function spread(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b),
    n = sorted.length;
  return { median: (sorted[(n - 1) >> 1] + sorted[n >> 1]) / 2, least: sorted[0], most: sorted[n - 1] };
}

interface Qualities {
  readonly loss: Spread;
  readonly undropped: Spread;
  readonly accuracy: Spread | null;
}

/** One row over its seeds. */
export interface Summary {
  readonly row: string;
  readonly seeds: number;
  readonly rate: Spread;
  readonly dropped: Spread;
  readonly stateBytes: number;
  readonly planBytes: { readonly most: Spread; readonly last: Spread };
  readonly equalSteps: Qualities;
  readonly equalTime: Qualities & { readonly steps: Spread };
  readonly recompilations: Spread;
}

export const failed = (r: Result | Failure): r is Failure => 'error' in r;

/** The summary of one table. */
export function summaries(results: readonly (Result | Failure)[]): Summary[] {
  return ROWS.flatMap(({ name }) => {
    const own = results.filter((r): r is Result => !failed(r) && r.row === name);
    if (own.length === 0) return [];
    const over = (pick: (r: Result) => number): Spread => spread(own.map(pick));
    const of = (which: 'equalSteps' | 'equalTime'): Qualities => ({
      loss: over((r) => r[which].loss),
      undropped: over((r) => r[which].undropped),
      accuracy: own[0][which].accuracy === null ? null : over((r) => r[which].accuracy ?? NaN),
    });
    return [
      {
        row: name,
        seeds: own.length,
        rate: over((r) => r.rate),
        dropped: over((r) => r.dropped),
        stateBytes: own[0].stateBytes,
        planBytes: { most: over((r) => r.planBytes.most), last: over((r) => r.planBytes.last) },
        equalSteps: of('equalSteps'),
        equalTime: { ...of('equalTime'), steps: over((r) => r.equalTime.steps) },
        recompilations: over((r) => r.decisions.filter((d) => d.kept).length),
      },
    ];
  });
}

/** Row a compared with row b, over the seeds that both have. */
export interface RowComparison {
  readonly a: string;
  readonly b: string;
  readonly seeds: number;
  /** The number of seeds for which a's loss at equal time is lower. */
  readonly wins: number;
  /** a's loss minus b's, at equal time and at equal steps. */
  readonly lossAtTime: Spread;
  readonly lossAtSteps: Spread;
  /** a's speed divided by b's. */
  readonly speed: Spread;
}

export function compareRows(results: readonly (Result | Failure)[], a: string, b: string): RowComparison | null {
  const of = (name: string): Map<number, Result> =>
    new Map(results.filter((r): r is Result => !failed(r) && r.row === name).map((r) => [r.seed, r]));
  const theirs = of(b),
    pairs = [...of(a)].flatMap(([seed, mine]) => {
      const other = theirs.get(seed);
      return other ? [[mine, other] as const] : [];
    });
  if (pairs.length === 0) return null;
  return {
    a,
    b,
    seeds: pairs.length,
    wins: pairs.filter(([x, y]) => x.equalTime.loss < y.equalTime.loss).length,
    lossAtTime: spread(pairs.map(([x, y]) => x.equalTime.loss - y.equalTime.loss)),
    lossAtSteps: spread(pairs.map(([x, y]) => x.equalSteps.loss - y.equalSteps.loss)),
    speed: spread(pairs.map(([x, y]) => x.rate / y.rate)),
  };
}

/**
 * The comparisons to print: adaptCapacity with rows that drop by fixed settings, the default with all of these, and
 * each further policy with the default.
 */
export function comparisons(results: readonly (Result | Failure)[]): RowComparison[] {
  const at = (name: string): number => ROWS.findIndex((row) => row.name === name),
    named = ROWS.map(({ name }) => name);
  const byHand = named.slice(0, at(ADAPT)),
    further = named.slice(at(DEFAULT) + 1);
  const pairs = [
    ...byHand.map((b) => [ADAPT, b]),
    ...[...byHand, ADAPT].map((b) => [DEFAULT, b]),
    ...further.map((a) => [a, DEFAULT]),
  ];
  return pairs.flatMap(([a, b]) => compareRows(results, a, b) ?? []);
}
