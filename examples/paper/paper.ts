// Plans a run, runs it table by table, and writes the results after each seed. In: flags, the progress display,
// workloads. Out: tables in Markdown.
import { appendFile, mkdir, writeFile } from 'node:fs/promises';
import { availableParallelism, cpus } from 'node:os';
import { join } from 'node:path';
import { UserError, type DeviceName } from 'dynamoe';
import { formatted } from '../../bench/compare/markdown.ts';
import { othersBetween, snapshot, type Snapshot } from '../../bench/compare/busy.ts';
import { duration } from '../../src/base/format.ts';
import { fault } from '../../src/io/fault.ts';
import { contest, trial, type Failure, type Result } from './contest.ts';
import type { PaperEvent, Reporter } from './progress.ts';
import { DEFAULT, ROWS, type Row } from './rows.ts';
import type { Source } from './sources.ts';
import { markdown } from './table.ts';
import type { Workload } from './workloads.ts';

export interface PaperFlags {
  readonly data: readonly string[];
  readonly only?: readonly string[];
  readonly rows?: readonly string[];
  readonly seeds?: number;
  readonly scale: number;
  /** The number of steps is reduced so that the run takes about this many minutes. */
  readonly minutes?: number;
  readonly lr?: readonly number[];
  readonly full?: boolean;
  readonly plan?: boolean;
  readonly out: string;
  readonly device: DeviceName;
  readonly threads?: number;
  readonly json?: boolean;
}

/** One planned table. */
interface Task {
  readonly workload: Workload;
  readonly source: Source;
  readonly rate: number;
  readonly rows: readonly Row[];
  readonly absent: readonly { readonly row: string; readonly why: string }[];
  readonly seeds: number;
  readonly steps: number;
  readonly turnMs: number;
  readonly stepMs: number;
  /** Estimated seconds: the total, and the part that does not depend on the number of steps. */
  readonly seconds: number;
  readonly fixedSeconds: number;
}

/**
 * Rows that compute padding continue after the others, until they have done as many steps. On average they take this
 * multiple of the default row's time.
 */
const SLOWER = 1.4;

/** Returns the tables. If the run was stopped, they contain the seeds that were done. */
export async function paper(
  flags: PaperFlags,
  reporter: Reporter,
  stop: AbortSignal,
  workloads: readonly Workload[],
): Promise<string[]> {
  const tasks = fitted(await plan(flags, reporter, workloads, stop), flags.minutes),
    all = tasks.reduce((n, t) => n + t.seconds, 0);
  if (tasks.length === 0 && !stop.aborted)
    throw new UserError('nothing of what was asked for can be run', 'the reasons stand above');
  for (const {
    workload: { id },
    rate,
    rows,
    seeds,
    steps,
    stepMs,
    seconds,
  } of tasks)
    reporter.tell({
      event: 'plan',
      workload: id,
      learning_rate: rate,
      rows: rows.map(({ name }) => name),
      seeds,
      steps,
      step_ms: stepMs,
      seconds,
    });
  reporter.say(`about ${duration(all)} in all on ${availableParallelism()} cores`);
  if (flags.plan || stop.aborted) return [];
  const jsonl = join(flags.out, 'results.jsonl'),
    md = join(flags.out, 'results.md'),
    begun = performance.now(),
    quiet = look(),
    tables: string[] = [];
  const write = (work: Promise<unknown>): Promise<unknown> =>
    work.catch((error: unknown) => {
      throw fault('write', flags.out, error);
    });
  await write(mkdir(flags.out, { recursive: true }));
  for (const file of [jsonl, md]) await write(writeFile(file, ''));
  const tell = async (event: PaperEvent): Promise<void> => {
    reporter.tell(event);
    if (event.event !== 'progress') await write(appendFile(jsonl, `${JSON.stringify(event)}\n`));
  };
  let done = 0; // forecast seconds
  for (const [at, task] of tasks.entries()) {
    const { workload, rate, seeds, steps } = task,
      { id } = workload,
      results: (Result | Failure)[] = [];
    for (let seed = 1; seed <= seeds && !stop.aborted; seed++) {
      const progress = (part: number): void => {
        const share = (done + (task.seconds * part) / seeds) / all,
          seconds = (performance.now() - begun) / 1000;
        reporter.tell({
          event: 'progress',
          workload: id,
          learning_rate: rate,
          seed,
          share,
          seconds,
          left: share > 0 ? seconds / share - seconds : all,
        });
      };
      progress(0);
      const found = await contest({
        ...task,
        seed,
        device: flags.device,
        ...(flags.threads !== undefined && { threads: flags.threads }),
        stop,
        progress,
      });
      if (!found) break;
      done += task.seconds / seeds;
      results.push(...found);
      for (const result of found) await tell({ event: 'result', workload: id, learning_rate: rate, steps, ...result });
      tables[at] = await formatted(markdown({ ...task, results }));
      await write(writeFile(md, [heading(quiet), ...tables].join('\n')));
    }
    if (results.length > 0) await tell({ event: 'table', workload: id, learning_rate: rate, markdown: tables[at] });
    if (stop.aborted) break;
  }
  const took = duration((performance.now() - begun) / 1000);
  reporter.say(
    tables.length > 0
      ? `${took}; results are in ${md} and ${jsonl}`
      : `${took}; stopped before a seed was done: there are no results`,
  );
  return tables;
}

/** The load by other processes can be read only on Linux. */
const look = (): Snapshot | null => (process.platform === 'linux' ? snapshot() : null);

function heading(begun: Snapshot | null): string {
  const now = look(),
    others =
      begun && now
        ? ` Other work took ${othersBetween(begun, now, process.pid).cores.toFixed(2)} cores meanwhile.`
        : '';
  return (
    `${new Date().toISOString().slice(0, 10)}, ${cpus()[0]?.model ?? 'unknown CPU'}, ${availableParallelism()} ` +
    `cores.${others}\n`
  );
}

const forecast = (task: Omit<Task, 'seconds'>): Task => ({
  ...task,
  seconds: task.fixedSeconds + (task.seeds * task.rows.length * task.steps * task.stepMs * SLOWER) / 1000,
});

/** The same plan with as large a share of the steps as fits into the time. */
function fitted(tasks: readonly Task[], minutes = Infinity): readonly Task[] {
  const sum = (of: (t: Task) => number): number => tasks.reduce((n, t) => n + of(t), 0),
    all = sum((t) => t.seconds),
    fixed = sum((t) => t.fixedSeconds);
  const share = (60 * minutes - fixed) / (all - fixed);
  if (share >= 1) return tasks;
  if (60 * minutes < 1.2 * fixed)
    throw new UserError(
      `${minutes} minutes are too few: opening and measuring alone take ${duration(fixed)}`,
      'more --minutes, fewer --seeds, or --only some',
    );
  return tasks.map((task) => forecast({ ...task, steps: Math.max(1, Math.round(task.steps * share)) }));
}

/**
 * The plan of a run, with a time estimate from a few steps of each table. A workload that cannot run is reported by
 * name; if it was asked for by name, this is an error.
 */
async function plan(
  flags: PaperFlags,
  reporter: Reporter,
  workloads: readonly Workload[],
  stop: AbortSignal,
): Promise<Task[]> {
  const tasks: Task[] = [];
  for (const workload of workloads) {
    const { id } = workload;
    if (flags.only && !flags.only.includes(id)) continue;
    let source: Source;
    try {
      source = await workload.source(flags.data);
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      const [why, ...hint] = error.message.split('\n  hint: ');
      if (flags.only) throw new UserError(`${id}: ${why}`, hint[0]);
      reporter.tell({ event: 'skipped', workload: id, why: [why, ...hint].join('; ') });
      continue;
    }
    const size = flags.full ? workload.full : workload.usual,
      steps = Math.max(1, Math.round(size.steps * flags.scale)),
      seeds = flags.seeds ?? size.seeds;
    const asked = ROWS.filter((row) => row.name === DEFAULT || !flags.rows || flags.rows.includes(row.id));
    const absent = asked.flatMap((row) => {
      const why = row.absent({ ...workload, steps });
      return why === null ? [] : [{ row: row.name, why }];
    });
    for (const { row, why } of absent) reporter.tell({ event: 'skipped', workload: id, row, why });
    const rows = asked.filter((row) => !absent.some((a) => a.row === row.name));
    let cost: Awaited<ReturnType<typeof trial>> | null = null; // the same for all learning rates
    for (const rate of flags.lr ?? workload.rates) {
      if (stop.aborted) return [];
      cost ??= await trial({
        workload,
        rows,
        source,
        seed: 1,
        steps,
        rate,
        device: flags.device,
        ...(flags.threads !== undefined && { threads: flags.threads }),
        stop,
      });
      // quality is measured twice, each time with drops and without
      const { stepMs } = cost,
        fixedSeconds = (seeds * rows.length * (cost.openMs + 4 * cost.evaluateMs)) / 1000;
      tasks.push(
        forecast({
          workload,
          source,
          rate,
          rows,
          absent,
          seeds,
          steps,
          turnMs: workload.slice * stepMs,
          stepMs,
          fixedSeconds,
        }),
      );
    }
  }
  return tasks;
}
