// Each system call of a command fails once: disk full, read-only file system, input/output error, too many files, a
// write that stops halfway, no memory, a compiler or a thread that does not start. First a run without failures counts
// all calls; then they fail in random order.
import { existsSync } from 'node:fs';
import { cp, mkdir, readdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { noCompiler } from '../../tests/support/toy.ts';
import { codeOf } from '../../src/io/fault.ts';
import { BrokenPromise, assertPromise, type Part, type AttackContext } from '../part.ts';
import type { Failure, Injection, Point } from '../inject.ts';
import { command, type Ended } from '../support/dynamoe.ts';
import { checkpointsOf, eventsIn, readAsDash, tensorsOf } from '../support/run-files.ts';
import {
  compareWithWhole,
  configIn,
  textIn,
  trainArgs,
  uninterrupted,
  type Place,
  type Settings,
  type Whole,
} from '../support/small-run.ts';

const SETTINGS: Settings = {
  steps: 8,
  batch: 2,
  accumulate: 1,
  seed: 5,
  saveEvery: 3,
  evalEvery: 4,
  recompile: 'auto',
  model: {
    layers: 1,
    dModel: 8,
    heads: 1,
    context: 8,
    dropout: 0,
    tied: false,
    moe: { experts: 2, topK: 1, hidden: 8, capacity: 1, overflow: 'spill', dispatch: 'padded' },
  },
  optimizer: { name: 'adamW', lr: 0.003, schedule: 'cosine' },
};

const NATIVE: Place = { device: 'native', threads: 2 },
  WASM: Place = { device: 'wasm', threads: 2 };

/**
 * A command that is attacked. begun: the run folder contains a run that was stopped after its second checkpoint. cold:
 * there are no compiled kernels in the cache.
 */
const SCENARIOS = {
  train: { place: NATIVE, begun: false, cold: false, does: 'train' },
  resume: { place: NATIVE, begun: true, cold: false, does: 'train' },
  'train on wasm': { place: WASM, begun: false, cold: false, does: 'train' },
  'train, cold cache': { place: NATIVE, begun: false, cold: true, does: 'train' },
  evaluate: { place: NATIVE, begun: true, cold: false, does: 'eval' },
  generate: { place: WASM, begun: true, cold: false, does: 'generate' },
} as const satisfies Readonly<
  Record<
    string,
    {
      readonly place: Place;
      readonly begun: boolean;
      readonly cold: boolean;
      readonly does: 'train' | 'eval' | 'generate';
    }
  >
>;
type Scenario = keyof typeof SCENARIOS;

interface Case extends Point, Failure {
  readonly scenario: Scenario;
}

const FILE: readonly Failure[] = [{ code: 'EIO' }, { code: 'EACCES' }],
  FULL: readonly Failure[] = [{ code: 'ENOSPC' }, { code: 'EROFS' }];
/** How each kind of system call may fail. */
const FAILURES: Readonly<Record<string, readonly Failure[]>> = {
  'open to write': [...FULL, { code: 'EMFILE' }],
  'open to read': [...FILE, { code: 'EMFILE' }],
  write: [{ code: 'ENOSPC', torn: true }, { code: 'EIO' }, { code: '', short: true }],
  append: [{ code: 'ENOSPC', torn: true }, { code: 'EIO' }],
  writeFile: [{ code: 'ENOSPC', torn: true }, { code: 'EROFS' }],
  sync: [{ code: 'EIO' }, { code: 'ENOSPC' }],
  rename: [...FULL, { code: 'EIO' }],
  mkdir: FULL,
  mkdtemp: FULL,
  unlink: [{ code: 'EROFS' }, { code: 'EIO' }],
  rm: [{ code: 'EROFS' }],
  truncate: [{ code: 'EIO' }],
  readdir: FILE,
  stat: FILE,
  readFile: FILE,
  read: [{ code: 'EIO' }],
};
/** Failures of operations that are not on files: memory, compilers, threads. */
const OTHER: readonly Failure[] = [{ code: 'ENOMEM' }];

const UNDISTURBED = 'a command without failing calls succeeds';
const ALIKE = 4; // calls of one kind on one kind of file that are attacked

export const faults: Part<Case> = {
  name: 'faults',
  promise:
    'if any system call fails, there is a clear error or none, nothing is lost or half-written, ' +
    'and the run continues with the same bits',
  share: 4,
  limit: 120,
  knownFaults: ['lost-write'],
  list,
  attack,
};

async function list({ folder, shared, knownFault }: AttackContext): Promise<readonly Case[]> {
  const all: Case[] = [];
  for (const scenario of Object.keys(SCENARIOS) as Scenario[]) {
    if (SCENARIOS[scenario].place.device === 'native' && noCompiler) continue;
    // Only runs of this scenario have the inserted fault.
    if (knownFault !== null && scenario !== 'train on wasm') continue;
    const own = join(folder, scenario.replaceAll(/\W+/g, '-'));
    await mkdir(own);
    const { ended, points } = await run(scenario, null, own, shared);
    assertPromise(UNDISTURBED, ended.code === 0, () => `${scenario}: exit code ${ended.code}: ${ended.stderr}`);
    for (const point of sampleOf(points))
      for (const failure of FAILURES[point.op] ?? OTHER) all.push({ scenario, ...point, ...failure });
  }
  return all;
}

/**
 * From many calls of one kind on one kind of file (kernels, lines of the log), takes a few, including the first and the
 * last: the others are alike.
 */
function sampleOf(points: readonly Point[]): Point[] {
  const groups = Map.groupBy(points, ({ op, on }) => `${op} ${on}`);
  return [...groups.values()].flatMap((all) =>
    all.length <= ALIKE
      ? all
      : Array.from({ length: ALIKE }, (_, i) => all[Math.round((i * (all.length - 1)) / (ALIKE - 1))]),
  );
}

/** The path of a cache with all kernels of the scenarios, for scenarios that should not wait for a compiler. */
async function warmCache(shared: string): Promise<string> {
  const cache = join(shared, 'faults-cache');
  if (existsSync(cache)) return cache;
  const made = `${cache}-${process.pid}`;
  await mkdir(made, { recursive: true });
  for (const scenario of noCompiler ? [] : (['train', 'evaluate'] as const)) {
    const folder = `${made}-${scenario}`;
    await mkdir(folder);
    await setUp(scenario, folder, shared);
    const { code, stderr } = await command(await argsOf(scenario, folder, shared), { env: { DYNAMOE_CACHE: made } });
    assertPromise(UNDISTURBED, code === 0, () => stderr);
  }
  await moved(made, cache);
  return cache;
}

const argsOf = async (scenario: Scenario, folder: string, shared: string): Promise<string[]> => {
  const { place, does, begun } = SCENARIOS[scenario],
    out = join(folder, 'run'),
    device = ['--device', place.device, '--threads', String(place.threads)];
  switch (does) {
    case 'train':
      return trainArgs(
        await configIn(folder, shared, SETTINGS),
        out,
        place,
        ...(begun ? ['--resume'] : []),
        '--trace',
        join(folder, 'run-trace.jsonl'),
      );
    case 'eval':
      return ['eval', out, '--json', '--data', await textIn(shared), ...device];
    case 'generate':
      return ['generate', out, '--prompt', 'the', '--tokens', '4', '--temperature', '0.5', '--seed', '1', ...device];
  }
};

/** Renames a folder. Another process may have created the target in the meantime; this is not an error. */
const moved = (from: string, to: string): Promise<void> =>
  rename(from, to).catch((error: unknown) => {
    if (!existsSync(to)) throw error;
  });

/** A run that has two checkpoints and is not done. */
async function begunRun(shared: string): Promise<string> {
  const begun = join(shared, 'faults-begun');
  if (existsSync(begun)) return begun;
  const folder = `${begun}-${process.pid}`;
  await mkdir(folder, { recursive: true });
  const out = join(folder, 'run'),
    { code, stderr } = await command(trainArgs(await configIn(folder, shared, SETTINGS), out, NATIVE));
  assertPromise(UNDISTURBED, code === 0, () => stderr);
  const kept = (name: string): boolean =>
    name === 'run.json' || name === 'events.jsonl' || /^step-0*[36]\.safetensors$/.test(name);
  for (const name of (await readdir(out)).filter(kept)) await cp(join(out, name), join(`${folder}-cut`, name));
  await moved(`${folder}-cut`, begun);
  return begun;
}

async function setUp(scenario: Scenario, folder: string, shared: string): Promise<void> {
  if (SCENARIOS[scenario].begun) await cp(await begunRun(shared), join(folder, 'run'), { recursive: true });
}

/** Runs a scenario in a folder, with one failing call or none. */
async function run(
  scenario: Scenario,
  fail: Injection['fail'],
  folder: string,
  shared: string,
  lossy = false,
): Promise<{ ended: Ended; points: Point[]; env: Readonly<Record<string, string>> }> {
  const cache = join(folder, 'cache'),
    log = join(folder, 'calls'),
    { cold } = SCENARIOS[scenario];
  await setUp(scenario, folder, shared);
  if (cold) await mkdir(cache);
  else await cp(await warmCache(shared), cache, { recursive: true });
  await writeFile(log, '');
  // With a cold cache, only the cache's own files are attacked; other scenarios attack the other files.
  const folders = [...(cold ? [] : [join(folder, 'run'), join(folder, 'run-trace.jsonl')]), cache],
    env = { DYNAMOE_CACHE: cache };
  const injection: Injection = { folders, log, fail, lossy };
  const ended = await command(await argsOf(scenario, folder, shared), {
    preload: [new URL('../inject.ts', import.meta.url).href],
    env: { ...env, DYNAMOE_CAMPAIGN_INJECT: JSON.stringify(injection) },
  });
  const points = (await readFile(log, 'utf8'))
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Point);
  return { ended, points: cold ? points.filter(({ op, on }) => op === 'compile' || !/device/.test(on)) : points, env };
}

async function attack({ scenario, op, on, nth, ...failure }: Case, context: AttackContext): Promise<void> {
  const { folder, shared } = context,
    { does, begun } = SCENARIOS[scenario],
    out = join(folder, 'run');
  const { ended, points, env } = await run(
    scenario,
    { op, on, nth, ...failure },
    folder,
    shared,
    context.knownFault === 'lost-write',
  );
  // Not every run makes this call.
  if (!points.some((p) => p.op === op && p.on === on && p.nth === nth)) return;
  context.count(`${op}: ${failure.short ? 'short' : failure.code}${failure.torn ? ', torn' : ''}`);
  if (ended.code !== 0) checkError(ended, op, on, folder);
  if (does !== 'train') {
    const { stdout } = ended.code === 0 ? ended : await command(await argsOf(scenario, folder, shared), { env });
    assertPromise(
      'the output of a command does not depend on an earlier failure',
      stable(stdout, folder) === (await undisturbed(scenario, context)),
      () => `another output: ${stdout}`,
    );
    return;
  }
  const whole = await uninterrupted(shared, SETTINGS, noCompiler ? WASM : NATIVE);
  if (!whole) throw new Error('the settings are refused');
  if (existsSync(out)) await checkRunFolder(out, begun ? 6 : 0);
  if (ended.code === 0) await checkFinishedRun(out, whole);
  const again = await command([...(await argsOf(scenario, folder, shared)), ...(begun ? [] : ['--resume'])], { env });
  assertPromise(
    'a run whose process failed can be resumed',
    again.code === 0,
    () => `exit code ${again.code}: ${again.stderr}`,
  );
  await checkFinishedRun(out, whole);
}

/** Output without times, rates and the name of the folder. */
const stable = (stdout: string, folder: string): string =>
  stdout.replaceAll(folder, '').replaceAll(/"(ms|seconds|tokens_per_s|samples_per_s)":[\d.e+-]+/g, '');

const outputs = new Map<Scenario, Promise<string>>();
function undisturbed(scenario: Scenario, { shared }: AttackContext): Promise<string> {
  const found =
    outputs.get(scenario) ??
    (async () => {
      const folder = join(shared, `faults-plain-${scenario}-${process.pid}`);
      await mkdir(folder);
      await setUp(scenario, folder, shared);
      return stable(
        (await command(await argsOf(scenario, folder, shared), { env: { DYNAMOE_CACHE: await warmCache(shared) } }))
          .stdout,
        folder,
      );
    })();
  outputs.set(scenario, found);
  return found;
}

function checkError({ code, signal, stderr }: Ended, op: string, on: string, folder: string): void {
  const promise = 'a failure is reported in a clear error that names the file';
  if (code === null) throw new BrokenPromise(promise, `${op} on ${on}: the command ended by ${signal}: ${stderr}`);
  assertPromise(promise, code === 1 || code === 2, () => `${op} on ${on}: exit code ${code}: ${stderr}`);
  assertPromise(promise, /^dynamoe: \S/m.test(stderr), () => `${op} on ${on}: no error is printed: ${stderr}`);
  assertPromise(promise, !/this is a bug|^ {4}at |unhandled/im.test(stderr), () => `${op} on ${on}: ${stderr}`);
  assertPromise(
    promise,
    /device|compiler/.test(on) || stderr.includes(folder),
    () => `${op} on ${on}: no file is named: ${stderr}`,
  );
}

/** Checks that every checkpoint and the log are complete, and that no earlier checkpoint is lost. */
async function checkRunFolder(out: string, before: number): Promise<void> {
  const there = await checkpointsOf(out).catch((error: unknown) => {
    if (codeOf(error) === 'ENOENT') return [];
    throw error;
  });
  let newest = 0;
  for (const path of there) {
    try {
      await tensorsOf(path);
    } catch (error) {
      throw new BrokenPromise('no checkpoint is half-written', String(error));
    }
    newest = Math.max(newest, Number(/step-(\d+)/.exec(path)?.[1]));
  }
  assertPromise(
    'no earlier checkpoint is lost',
    newest >= before,
    () => `the newest checkpoint is of step ${newest}, before there was one of step ${before}`,
  );
  await eventsIn(out, true);
}

async function checkFinishedRun(out: string, whole: Whole): Promise<void> {
  await compareWithWhole(out, whole);
  await checkRunFolder(out, SETTINGS.steps);
  await readAsDash(out);
}
