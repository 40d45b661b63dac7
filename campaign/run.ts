// `npm run campaign -- --minutes N --seed S [--only NAME]`: tests the promises of docs/reliability.md by attacks that
// are drawn from a seed. The exit code is 1 if a promise was broken.
import { mkdtemp, rm } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import { MAX_SEED, real, whole } from '../src/cli/flags.ts';
import type { Json } from '../src/io/json.ts';
import { Attempts, kindOf, type Finding } from './attempts.ts';
import { AttackWorker } from './attack-worker.ts';
import { pastFailures } from './past-failures.ts';
import { partNamed, PART_NAMES } from './parts.ts';
import type { Part } from './part.ts';
import { openReport, type PartSummary } from './report.ts';

interface Flags {
  readonly minutes: number;
  readonly seed: number;
  readonly only?: string[];
  readonly case?: Json;
  readonly trial?: number;
  readonly kept?: boolean;
  readonly shrink: number;
  readonly most: number;
  readonly jobs: number;
  readonly attacks: number;
  readonly json?: boolean;
  readonly plant?: string;
}

const program = new Command('campaign')
  .description(
    "Attacks DynaMoE's promises: kills, ranks, faults, damaged files, recompilations, models, GPU, calls, long runs.",
  )
  .option('--minutes <n>', 'duration in minutes', real(0, true), 10)
  .option('--seed <n>', 'seed of all attacks', whole(0, MAX_SEED), 0)
  .addOption(new Option('--only <part...>', 'run only these parts').choices(PART_NAMES))
  .addOption(new Option('--case <json>', 'run this case of the one part; a finding prints it').argParser(parsed))
  .option('--trial <seed>', 'run the case that this seed draws, and make it smaller if it fails', whole(0, MAX_SEED))
  .option('--kept', 'run only the cases that failed in the past (campaign/seeds.json)')
  .option('--shrink <s>', 'time limit in seconds for making a failed case smaller', real(0), 60)
  .option('--most <n>', 'end a part after this many kinds of findings', whole(1), 12)
  .option('--attacks <n>', 'end a part after this many attacks', whole(1), Infinity)
  .option('--jobs <n>', 'number of attacks at the same time', whole(1, 64), availableParallelism())
  .option('--json', 'print JSON lines to stdout')
  .addOption(new Option('--plant <name>', 'insert a known fault, to test the campaign').hideHelp());

function parsed(text: string): Json {
  try {
    return JSON.parse(text) as Json;
  } catch {
    throw new InvalidArgumentError('expected JSON');
  }
}

const flags = program.parse().opts<Flags>();
const named = await Promise.all((flags.only ?? PART_NAMES).map(partNamed)),
  skipped = named.map((part) => part.missing?.() ?? false),
  parts = named.filter((_, i) => skipped[i] === false);
if ((flags.case !== undefined || flags.trial !== undefined) && named.length !== 1)
  program.error('error: --case and --trial need --only PART');

const folder = await mkdtemp(join(tmpdir(), 'dynamoe-campaign-')),
  report = openReport(flags.json === true);
for (const [i, why] of skipped.entries()) if (why !== false) report.say(`${named[i].name} is skipped: ${why}`);
const summaries: PartSummary[] = [],
  findings: Finding[] = [],
  began = performance.now();
const stop = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => {
    stop.abort();
  });
try {
  if (flags.kept) await replay();
  else
    for (const [i, part] of parts.entries())
      if (!stop.signal.aborted) summaries.push(await attack(part, timeOf(part, i)));
} finally {
  await rm(folder, { recursive: true, force: true, maxRetries: 3 });
}
report.end({ seed: flags.seed, seconds: (performance.now() - began) / 1000, parts: summaries, findings });
process.exitCode = findings.length > 0 ? 1 : 0;

/** The time for a part in ms: its share of the time that is left. */
function timeOf(part: Part, i: number): number {
  const left = 60_000 * flags.minutes - (performance.now() - began),
    shares = parts.slice(i).reduce((n, p) => n + p.share, 0);
  return (left * part.share) / shares;
}

async function attack(part: Part, ms: number): Promise<PartSummary> {
  const start = performance.now(),
    figures: Record<string, number> = {},
    kinds = new Map<string, number>();
  const attempts = new Attempts(part, flags.seed, flags.shrink),
    { case: given, trial } = flags;
  const single =
    given !== undefined
      ? (worker: AttackWorker) => attempts.runCase(given, worker)
      : trial !== undefined
        ? (worker: AttackWorker) => attempts.runSeed(trial, worker)
        : null;
  let attacks = 0;
  const lane = async (worker: AttackWorker): Promise<void> => {
    do {
      const found = await (single ? single(worker) : attempts.next(worker));
      attacks++;
      report.progress(part.name, attacks, (performance.now() - began) / (60_000 * flags.minutes));
      if (!found) continue;
      kinds.set(kindOf(found), (kinds.get(kindOf(found)) ?? 0) + 1);
      if (kinds.get(kindOf(found)) === 1) {
        findings.push(found);
        report.finding(found);
      }
    } while (
      !single &&
      !stop.signal.aborted &&
      performance.now() - start < ms &&
      kinds.size < flags.most &&
      attacks < flags.attacks
    );
  };
  const lanes = Array.from({ length: single ? 1 : flags.jobs }, () => newWorker(figures));
  try {
    await Promise.all(lanes.map(lane));
  } finally {
    await Promise.all(lanes.map((worker) => worker.stop()));
  }
  if (attempts.covered)
    Object.assign(figures, {
      'points in all': attempts.covered.cases,
      'points that failed once': attempts.covered.done,
    });
  return {
    part: part.name,
    promise: part.promise,
    seconds: (performance.now() - start) / 1000,
    attacks,
    figures,
    findings: kinds.size,
  };
}

function newWorker(figures: Record<string, number>): AttackWorker {
  return new AttackWorker({
    folder,
    plant: flags.plant ?? null,
    count: (figure, by) => {
      figures[figure] = (figures[figure] ?? 0) + by;
    },
  });
}

/** Runs the cases that failed in the past. */
async function replay(): Promise<void> {
  const cases = await pastFailures();
  for (const part of parts) {
    const own = cases.filter((c) => c.part === part.name),
      start = performance.now(),
      figures: Record<string, number> = {},
      worker = newWorker(figures);
    let failed = 0;
    try {
      for (const { attack: given, found: before } of own) {
        const found = await new Attempts(part, flags.seed, flags.shrink).runCase(given, worker);
        if (!found) continue;
        failed++;
        findings.push(found);
        report.say(`failed again: ${before}`);
        report.finding(found);
      }
    } finally {
      await worker.stop();
    }
    if (own.length > 0)
      summaries.push({
        part: part.name,
        promise: part.promise,
        seconds: (performance.now() - start) / 1000,
        attacks: own.length,
        figures,
        findings: failed,
      });
  }
}
