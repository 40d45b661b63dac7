// Writes results as Markdown: cost and quality of each row, comparisons, and missing rows with the reason.
import { titleLines } from '../../bench/compare/markdown.ts';
import type { Failure, Result } from './contest.ts';
import { comparisons, failed, spread, summaries, type RowComparison, type Spread } from './results.ts';
import type { Workload } from './workloads.ts';

export interface TableOf {
  readonly workload: Workload;
  readonly steps: number;
  readonly rate: number;
  /** The rows that do not exist here, with the reason. */
  readonly absent: readonly { readonly row: string; readonly why: string }[];
  readonly results: readonly (Result | Failure)[];
}

type Form = (value: number) => string;
const whole: Form = (n) => String(Math.round(n)),
  percent: Form = (n) => `${(100 * n).toFixed(2)}%`,
  short: Form = (n) => `${(100 * n).toFixed(1)}%`,
  loss: Form = (n) => n.toFixed(3),
  mega: Form = (n) => (n / 1e6).toFixed(n < 1e7 ? 2 : 1);
const signed: Form = (n) => `${n < 0 ? '-' : '+'}${Math.abs(n).toFixed(3)}`,
  times: Form = (n) => n.toFixed(2);

/** Throughput with three digits. */
const rate: Form = (n) => String(Number(n.toPrecision(3)));

/** The median, and the minimum and maximum unless they read the same. */
export function show({ median, least, most }: Spread, form: Form): string {
  const [middle, low, high] = [median, least, most].map(form);
  return low === high ? middle : `${middle} (${low} to ${high})`;
}

const cells = (row: readonly string[]): string => `| ${row.join(' | ')} |`;

const grid = (head: readonly string[], lines: readonly (readonly string[])[]): string[] =>
  [head, head.map(() => '---'), ...lines].map(cells);

export function markdown({ workload, steps, rate: lr, absent, results }: TableOf): string {
  const rows = summaries(results),
    { unit, accuracy } = workload,
    seeds = new Set(results.map(({ seed }) => seed)).size;
  const cost = [
    'row',
    `${unit}/s`,
    'peak, MB',
    'planned for a step, most',
    'last',
    'dropped',
    'recompiled',
    'steps in equal time',
  ];
  const costs = rows.map((r) => [
    r.row,
    show(r.rate, rate),
    show(r.planBytes.most, (n) => mega(n + r.stateBytes)),
    show(r.planBytes.most, mega),
    show(r.planBytes.last, mega),
    show(r.dropped, percent),
    show(r.recompilations, whole),
    show(r.equalTime.steps, whole),
  ]);
  const measured = ['loss', 'nothing dropped', ...(accuracy ? ['accuracy'] : [])],
    quality = ['row', ...['equal steps', 'equal time'].flatMap((when) => measured.map((what) => `${when}: ${what}`))];
  const qualities = rows.map((r) => [
    r.row,
    ...[r.equalSteps, r.equalTime].flatMap((q) => [
      show(q.loss, loss),
      show(q.undropped, loss),
      ...(q.accuracy ? [show(q.accuracy, short)] : []),
    ]),
  ]);
  const failures = results.filter(failed),
    why = new Map(failures.map(({ row, error }) => [row, error]));
  const missing = [
    ...absent.map(({ row, why: reason }) => `No row "${row}": ${reason}.`),
    ...[...why].map(
      ([row, error]) =>
        `"${row}" failed with ${failures.filter((f) => f.row === row).length} of ${seeds} seeds: ${error}`,
    ),
  ];
  return [
    ...titleLines(workload.title),
    `${steps} steps, learning rate ${lr}, ${seeds} ${seeds === 1 ? 'seed' : 'seeds'}: medians (from least to most).`,
    '',
    ...grid(cost, costs),
    '',
    ...grid(quality, qualities),
    '',
    ...[...comparisons(results).map(sentence), ...waits(results)].map((line) => `- ${line}`),
    '',
    ...missing.flatMap((line) => [line, '']),
  ].join('\n');
}

/** The name of a row in a sentence: as code if Markdown would take its first character for that of a list. */
const code = (row: string): string => (/^[-+*] /.test(row) ? `\`${row}\`` : row);

/** One comparison, as a sentence. */
function sentence({ a, b, seeds, wins, lossAtTime, lossAtSteps, speed }: RowComparison): string {
  return (
    `${code(a)} against ${code(b)}: loss ${show(lossAtTime, signed)} at equal time ` +
    `(lower with ${wins} of ${seeds} seeds), ` +
    `${show(lossAtSteps, signed)} at equal steps; ${show(speed, times)} times the speed.`
  );
}

/**
 * For each row: how long its recompilations made steps wait, the time of the whole run, and the number of changes that
 * were not kept, with the last error.
 */
function waits(results: readonly (Result | Failure)[]): string[] {
  const all = results.filter((r): r is Result => !failed(r) && r.decisions.length > 0),
    ms: Form = (n) => n.toFixed(n < 10 ? 1 : 0);
  return [...new Set(all.map(({ row }) => row))].map((row) => {
    const own = all.filter((r) => r.row === row),
      waited = own.map((r) => r.decisions.reduce((n, e) => n + e.stall_ms + e.verify_ms, 0)),
      undone = own.flatMap((r) => r.decisions.filter((e) => !e.kept));
    const reason = undone.at(-1)?.error,
      notKept = undone.length > 0 ? ` Not kept: ${undone.length}${reason ? ` (${reason})` : ''}.` : '';
    return (
      `Recompilations of "${row}" made steps wait ${show(spread(waited), ms)} ms in all; ` +
      `equal time is ${show(spread(own.map((r) => r.ms)), ms)} ms.${notKept}`
    );
  });
}
