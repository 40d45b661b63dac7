// Runs that are killed by SIGKILL several times, at random moments and at chosen ones: while a checkpoint is written,
// while kernels are compiled, directly after the event of a step or a recompilation. Each process of a run may use
// another device and number of threads.
import { watch, type FSWatcher } from 'node:fs';
import { mkdir, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { parseTrace } from '../../src/recompile/lab/trace.ts';
import { assertPromise, type Part, type AttackContext } from '../part.ts';
import { start } from '../support/dynamoe.ts';
import { eventsIn, lossesOf, readAsDash, tensorBoardLosses } from '../support/run-files.ts';
import {
  compareWithWhole,
  configIn,
  places,
  settings,
  trainArgs,
  uninterrupted,
  type Place,
  type Settings,
} from '../support/small-run.ts';

/**
 * The moment of a kill: `after` milliseconds after the nth event of the kind `at`. For 'time', `after` is a part of the
 * run's time.
 */
interface Kill {
  readonly at: 'time' | 'step' | 'saving' | 'recompiled' | 'compiling';
  readonly nth: number;
  readonly after: number;
  readonly place: Place;
}
interface Case {
  readonly settings: Settings;
  readonly whole: Place;
  readonly kills: readonly Kill[];
  readonly last: Place;
  readonly coldCache: boolean;
}

const GOES_ON = 'a run that was killed can be resumed';

const kill: fc.Arbitrary<Kill> = fc.record({
  at: fc.constantFrom<Kill['at'][]>('time', 'step', 'saving', 'saving', 'recompiled', 'compiling'),
  nth: fc.integer({ min: 1, max: 20 }),
  after: fc.nat(30),
  place: places(),
});

export const kills: Part<Case> = {
  name: 'kills',
  promise: 'a run that is killed at any moment continues with the same results, on any device and number of threads',
  share: 4,
  limit: 240,
  knownFaults: ['lost-line'],
  cases: fc.record({
    settings: settings(60),
    whole: places(),
    kills: fc.array(kill, { minLength: 1, maxLength: 6 }),
    last: places(),
    coldCache: fc.constantFrom(false, false, false, true),
  }),
  attack,
};

async function attack(given: Case, context: AttackContext): Promise<void> {
  const { folder, shared } = context,
    out = join(folder, 'run'),
    config = await configIn(folder, shared, given.settings);
  const whole = await uninterrupted(shared, given.settings, given.whole);
  if (!whole) {
    context.count('settings that are refused');
    return;
  }
  const cache = join(folder, 'cache'),
    env = {
      ...(given.coldCache && { DYNAMOE_CACHE: cache }),
      ...(context.knownFault !== null && { DYNAMOE_CAMPAIGN_PLANT: context.knownFault }),
    };
  await mkdir(cache);
  const trace = join(folder, 'trace.jsonl'),
    args = (place: Place): string[] =>
      trainArgs(config, out, place, '--resume', ...(given.settings.model.moe ? ['--trace', trace] : []));
  const preload = context.knownFault === null ? [] : [new URL('../insert-fault.ts', import.meta.url).href];
  for (const k of given.kills) {
    const killed = await runUntil(k, args(k.place), { out, cache, ms: whole.ms, env, preload });
    if (killed === null) break; // The run ended before the kill.
    context.count(`kills ${killed}`);
    const events = await eventsIn(out, true);
    lossesOf(events);
    if (events.length > 0) await readAsDash(out);
  }
  const { ended } = start(args(given.last), { env, preload }),
    { code, stderr } = await ended;
  assertPromise(GOES_ON, code === 0, () => `exit code ${code}: ${stderr}`);
  context.count('runs compared');
  await compareWithWhole(out, whole);
  await readAsDash(out);
  const shown = await tensorBoardLosses(out),
    missing = whole.losses.flatMap((loss, i) => (shown.get(i + 1) === Math.fround(loss) ? [] : [i + 1]));
  assertPromise(
    'TensorBoard shows every step of a run that was killed and resumed',
    missing.length === 0,
    () =>
      `${missing.length} of ${whole.losses.length} steps are missing or have another loss, the first is ${missing[0]}`,
  );
  if (given.settings.model.moe) {
    const { loads } = parseTrace(await readFile(trace, 'utf8'), 'trace.jsonl');
    assertPromise(
      'the trace of a run that was killed and resumed has every step',
      loads.length === whole.losses.length,
      () => `${loads.length} of ${whole.losses.length} steps`,
    );
  }
  const left = (await readdir(out)).filter((name) => name.endsWith('.tmp') || name.startsWith('lock.'));
  assertPromise(
    'no files of a killed process are left after the run has ended',
    left.length === 0,
    () => `left: ${left.join(', ')}`,
  );
}

interface RunOptions {
  readonly out: string;
  readonly cache: string;
  readonly ms: number;
  readonly env: Readonly<Record<string, string>>;
  readonly preload: readonly string[];
}

/** Runs until the kill. Returns what the process was doing at that moment, or null if it ended before. */
async function runUntil(
  { at, nth, after }: Kill,
  args: readonly string[],
  { out, cache, ms, env, preload }: RunOptions,
): Promise<string | null> {
  let steps = 0,
    saving = 0,
    recompiled = 0,
    compiling = 0,
    doing = 'while starting';
  await mkdir(out, { recursive: true });
  const { child, ended } = start(args, {
    env,
    preload,
    line: (text) => {
      const { event } = JSON.parse(text) as { event: string };
      doing = event === 'start' || event === 'step' || event === 'checkpoint' ? 'while training' : `after ${event}`;
      if (event === 'step' && ++steps === nth && at === 'step') later();
      if (event === 'recompile' && ++recompiled === 1 + (nth % 3) && at === 'recompiled') later();
    },
  });
  const later = (): void => {
    setTimeout(() => {
      child.kill('SIGKILL');
    }, after);
  };
  const timer =
    at === 'time'
      ? setTimeout(
          () => {
            child.kill('SIGKILL');
          },
          (ms * (nth * 31 + after)) / 650,
        )
      : undefined;
  const watchers: FSWatcher[] = [
    watch(out, (_, name) => {
      if (!/^\.step-.*\.tmp$/.test(name ?? '')) return;
      doing = 'while saving';
      // The watcher reports several changes for each file.
      if (++saving >= nth && at === 'saving') child.kill('SIGKILL');
    }),
    watch(cache, () => {
      doing = 'while compiling';
      if (++compiling >= nth && at === 'compiling') child.kill('SIGKILL');
    }),
  ];
  try {
    const { code, signal, stderr } = await ended;
    if (signal === 'SIGKILL') return doing;
    assertPromise(GOES_ON, code === 0, () => `exit code ${code}: ${stderr}`);
    return null;
  } finally {
    clearTimeout(timer);
    watchers.forEach((w) => {
      w.close();
    });
  }
}
