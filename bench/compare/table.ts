// Makes a Markdown table from times. In: each contestant's times by round. Out: medians, ranges, and ratios to the
// first contestant. A ratio above 1 says how many times as fast the first contestant is.
import { median } from '../../src/observe/quantile.ts';
import { titleLines } from './markdown.ts';
import type { Comparison } from './works.ts';

export interface Entry {
  readonly name: string;
  /** Milliseconds of each step, by round; empty if it did not run. */
  readonly rounds: readonly (readonly number[])[];
  readonly rss: number | null;
  /** The loss of the last step; absent if the contestant does not report it. */
  readonly loss?: number | null;
  readonly version: string | null;
  /** The reason why it did not run. */
  readonly problem: string | null;
}

export interface Row {
  readonly name: string;
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly perSecond: number;
  readonly gflops: number | null;
  readonly ofPeak: number | null;
  readonly rss: number | null;
  /** Its median divided by the first contestant's, and the smallest and the largest of the same ratio by round. */
  readonly ratio: number | null;
  readonly ratioSpread: readonly [number, number] | null;
  /** Its memory divided by the first contestant's. */
  readonly memoryRatio: number | null;
}

/** Rows of the contestants that ran, in the given order. peak: GFLOP/s. */
export function rowsOf(
  entries: readonly Entry[],
  { samples, flops }: Pick<Comparison, 'samples' | 'flops'>,
  peak: number | null,
): Row[] {
  const ran = entries.filter((e) => e.problem === null && e.rounds.length > 0),
    [first] = entries;
  const base = ran.includes(first) ? first : null;
  return ran.map((e) => {
    const all = e.rounds.flat(),
      middle = median(all),
      gflops = flops === null ? null : flops / middle / 1e6;
    const ratios = base === null || base === e ? null : e.rounds.map((r, i) => median(r) / median(base.rounds[i]));
    return {
      name: e.name,
      median: middle,
      min: Math.min(...all),
      max: Math.max(...all),
      perSecond: (1000 * samples) / middle,
      gflops,
      ofPeak: gflops === null || peak === null ? null : gflops / peak,
      rss: e.rss,
      ratio: base === null ? null : middle / median(base.rounds.flat()),
      ratioSpread: ratios && [Math.min(...ratios), Math.max(...ratios)],
      memoryRatio: base === null || e.rss === null || !base.rss ? null : e.rss / base.rss,
    };
  });
}

export function markdown(
  { title, ...comparison }: Pick<Comparison, 'title' | 'samples' | 'flops'>,
  entries: readonly Entry[],
  peak: number | null,
): string {
  const f = (x: number): string => (x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x.toFixed(2)),
    cell = (text: string): string => text.replaceAll('|', '\\|');
  const head = [
    '',
    'step, ms: median (min - max)',
    'a second',
    'GFLOP/s',
    'of peak',
    'memory, MB (times ours)',
    'time, times ours (by rounds)',
  ];
  const lines = rowsOf(entries, comparison, peak).map((r) => [
    cell(r.name),
    `${f(r.median)} (${f(r.min)} - ${f(r.max)})`,
    r.perSecond.toFixed(0),
    r.gflops === null ? '' : f(r.gflops),
    r.ofPeak === null ? '' : `${(100 * r.ofPeak).toFixed(0)}%`,
    r.rss === null
      ? ''
      : `${(r.rss / 1e6).toFixed(0)}${r.memoryRatio === null ? '' : ` (${r.memoryRatio.toFixed(2)})`}`,
    r.ratio === null
      ? ''
      : r.ratioSpread === null
        ? '1'
        : `**${r.ratio.toFixed(2)}** (${r.ratioSpread[0].toFixed(2)} - ${r.ratioSpread[1].toFixed(2)})`,
  ]);
  const missing = entries.filter((e) => e.problem !== null).map((e) => `Not run: ${e.name}: ${e.problem}.`);
  return [
    ...titleLines(title),
    ...[head, head.map((_, i) => (i === 0 ? '---' : '---:')), ...lines].map((row) => `| ${row.join(' | ')} |`),
    ...missing.flatMap((line) => ['', line]),
    '',
  ].join('\n');
}
