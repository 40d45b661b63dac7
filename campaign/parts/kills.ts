// Runs that are killed by SIGKILL several times, at random moments and at chosen ones: while a checkpoint is written,
// while kernels are compiled, directly after the event of a step or a recompilation. Each process of a run may use
// another device and number of threads.
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { assertPromise, type Part, type AttackContext } from '../part.ts';
import { start } from '../support/dynamoe.ts';
import { momentFields, MomentWatch, type Moment } from '../support/moments.ts';
import { checkEnded, checkReadable, checkResumed, GOES_ON } from '../support/resumed.ts';
import {
  configIn,
  places,
  settings,
  trainArgs,
  uninterrupted,
  type Place,
  type Settings,
} from '../support/small-run.ts';

interface Kill extends Moment {
  readonly place: Place;
}
interface Case {
  readonly settings: Settings;
  readonly whole: Place;
  readonly kills: readonly Kill[];
  readonly last: Place;
  readonly coldCache: boolean;
}

const kill: fc.Arbitrary<Kill> = fc.record({ ...momentFields(20), place: places() });

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
    await checkReadable(out);
  }
  const { ended } = start(args(given.last), { env, preload });
  checkEnded(await ended);
  context.count('runs compared');
  await checkResumed(out, whole, given.settings.model.moe ? trace : null);
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
  moment: Moment,
  args: readonly string[],
  { out, cache, ms, env, preload }: RunOptions,
): Promise<string | null> {
  await mkdir(out, { recursive: true });
  const watch = new MomentWatch(moment, { out, cache, ms }, () => {
      child.kill('SIGKILL');
    }),
    { child, ended } = start(args, {
      env,
      preload,
      line: (text) => {
        watch.line(text);
      },
    });
  try {
    const { code, signal, stderr } = await ended;
    if (signal === 'SIGKILL') return watch.doing;
    assertPromise(GOES_ON, code === 0, () => `exit code ${code}: ${stderr}`);
    return null;
  } finally {
    watch.close();
  }
}
