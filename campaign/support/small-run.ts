// Small training runs with random settings: their text, and their results without interruption. In: settings as JSON.
// Out: folders and losses.
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { noCompiler } from '../../tests/support/toy.ts';
import type { Precision } from '../../src/session/platform.ts';
import { assertPromise } from '../part.ts';
import { beyond } from './random-model.ts';
import { command } from './dynamoe.ts';
import { checkpointsOf, eventsIn, lossesOf, tensorsOf } from './run-files.ts';

/** The device and the number of threads of a process. */
export interface Place {
  readonly device: 'native' | 'wasm';
  readonly threads: number;
}

export const places = (): fc.Arbitrary<Place> =>
  fc.record({
    device: fc.constantFrom<Place['device'][]>(
      ...(noCompiler ? ['wasm' as const] : ['native' as const, 'wasm' as const]),
    ),
    threads: fc.integer({ min: 1, max: 3 }),
  });

/** The settings that determine the numbers of a run, as in a config file. */
export interface Settings {
  readonly steps: number;
  readonly batch: number;
  readonly accumulate: number;
  readonly seed: number;
  readonly saveEvery: number;
  readonly evalEvery: number;
  readonly recompile: string;
  /** Absent in cases from before there was a choice. */
  readonly precision?: Precision;
  readonly model: {
    readonly layers: number;
    readonly dModel: number;
    readonly heads: number;
    readonly context: number;
    readonly dropout: number;
    readonly tied: boolean;
    readonly moe: {
      readonly experts: number;
      readonly topK: number;
      readonly hidden: number;
      readonly capacity: 'dropless' | number;
      readonly overflow: 'drop' | 'spill';
      readonly dispatch: 'ragged' | 'padded';
    } | null;
  };
  readonly optimizer: {
    readonly name: 'adamW' | 'adam' | 'sgd';
    readonly lr: number;
    readonly schedule: 'cosine' | 'constant';
  };
}

/** Small enough that a process of a run takes about a second. */
export const settings = (steps: number): fc.Arbitrary<Settings> =>
  fc.record({
    steps: fc.constant(steps),
    batch: fc.constantFrom(2, 4),
    accumulate: fc.constantFrom(1, 1, 2),
    seed: fc.nat(1000),
    saveEvery: fc.integer({ min: 3, max: 12 }),
    evalEvery: fc.constantFrom(0, 7, 20),
    recompile: fc.constantFrom(
      'off',
      'auto',
      'adaptCapacity',
      'adaptCapacity,sparsify',
      'auto',
      'chooseDispatch,specialise',
      'expertLifecycle',
    ),
    precision: fc.constantFrom<Precision[]>('float32', 'float32', 'bfloat16', 'bfloat16-weights'),
    model: fc.record({
      layers: fc.constantFrom(1, 2),
      dModel: fc.constantFrom(8, 16),
      heads: fc.constantFrom(1, 2),
      context: fc.constantFrom(8, 16),
      dropout: fc.constantFrom(0, 0, 0.1),
      tied: fc.boolean(),
      moe: fc.option(
        fc.record({
          experts: fc.constantFrom(2, 4),
          topK: fc.constantFrom(1, 2),
          hidden: fc.constantFrom(8, 16),
          capacity: fc.constantFrom<('dropless' | number)[]>('dropless', 0.5, 1, 1.5),
          overflow: fc.constantFrom('drop', 'spill'),
          dispatch: fc.constantFrom('ragged', 'padded'),
        }),
        { freq: 8, nil: null },
      ),
    }),
    optimizer: fc.record({
      name: fc.constantFrom('adamW', 'adam', 'sgd'),
      lr: fc.constantFrom(0.003, 0.02),
      schedule: fc.constantFrom('cosine', 'constant'),
    }),
  });

const WORDS = 'the quick brown fox jumps over a lazy dog while many experts wait in the shade'.split(' ');

/** A generated file of text, about 8 kB. */
export async function textIn(folder: string): Promise<string> {
  const path = join(folder, 'text.txt');
  if (existsSync(path)) return path;
  let text = '',
    state = 1;
  while (text.length < 8000) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    text += WORDS[(state >>> 16) % WORDS.length] + ((state >>> 8) % 9 === 0 ? '.\n' : ' ');
  }
  const part = `${path}.${process.pid}`;
  await writeFile(part, text);
  await rename(part, path);
  return path;
}

export const trainArgs = (
  config: string,
  out: string,
  { device, threads }: Place,
  ...more: readonly string[]
): string[] => [
  'train',
  config,
  '--out',
  out,
  '--device',
  device,
  '--threads',
  String(threads),
  '--json',
  '--tensorboard',
  ...more,
];

/** The policies that can act in the model; others would be refused. */
function policiesFor({ recompile, model: { moe } }: Settings): string {
  const useful: Readonly<Record<string, boolean>> = {
    adaptCapacity: moe !== null && moe.capacity !== 'dropless',
    sparsify: moe !== null && moe.topK > 1,
    expertLifecycle: moe !== null,
    chooseDispatch: moe !== null,
    specialise: moe !== null,
  };
  return (
    recompile
      .split(',')
      .filter((name) => useful[name] ?? true)
      .join() || 'off'
  );
}

/** A config file of these settings. */
export async function configIn(folder: string, shared: string, given: Settings): Promise<string> {
  const path = join(folder, 'config.json'),
    { overflow, ...moe } = given.model.moe ?? { overflow: 'drop' as const, capacity: 'dropless' as const };
  const model = { ...given.model, moe: given.model.moe && { ...moe, ...beyond(moe.capacity, overflow) } };
  await writeFile(
    path,
    JSON.stringify({ ...given, recompile: policiesFor(given), model, data: [await textIn(shared)] }),
  );
  return path;
}

export interface Whole {
  readonly losses: readonly number[];
  readonly tensors: Readonly<Record<string, string>>;
  readonly ms: number;
}

/**
 * The results of a run with these settings without interruption, cached by settings. null: the settings are refused.
 */
export async function uninterrupted(shared: string, given: Settings, place: Place): Promise<Whole | null> {
  const key = createHash('sha256')
      .update(JSON.stringify([given, place]))
      .digest('hex')
      .slice(0, 16),
    known = join(shared, `whole-${key}.json`);
  if (existsSync(known)) return JSON.parse(await readFile(known, 'utf8')) as Whole;
  const folder = join(shared, `whole-${key}-${process.pid}`),
    out = join(folder, 'run');
  await mkdir(folder, { recursive: true });
  const start = performance.now(),
    { code, stderr } = await command(trainArgs(await configIn(folder, shared, given), out, place));
  if (code === 2) return null;
  assertPromise('a run that nothing disturbs comes to its end', code === 0, () => `exit code ${code}: ${stderr}`);
  const [newest] = await checkpointsOf(out);
  const whole: Whole = {
    losses: lossesOf(await eventsIn(out, false)),
    tensors: await tensorsOf(newest),
    ms: performance.now() - start,
  };
  await rm(folder, { recursive: true });
  await writeFile(`${known}.${process.pid}`, JSON.stringify(whole));
  await rename(`${known}.${process.pid}`, known);
  return whole;
}

/** Checks that an interrupted and resumed run has the results of an uninterrupted one. */
export async function compareWithWhole(out: string, whole: Whole): Promise<void> {
  const losses = lossesOf(await eventsIn(out, false));
  assertPromise(
    'a run that goes on has the losses of one that nothing disturbed, bit for bit',
    JSON.stringify(losses) === JSON.stringify(whole.losses),
    () => {
      const at = whole.losses.findIndex((loss, i) => loss !== losses[i]);
      return (
        `${losses.length} steps, not ${whole.losses.length}; step ${at + 1} has the loss ${losses[at]}, not ` +
        `${whole.losses[at]}`
      );
    },
  );
  const [newest] = await checkpointsOf(out),
    tensors = await tensorsOf(newest),
    wrong = Object.keys({ ...tensors, ...whole.tensors }).filter((name) => tensors[name] !== whole.tensors[name]);
  assertPromise(
    'a run that goes on ends with the weights and moments of one that nothing disturbed, bit for bit',
    wrong.length === 0,
    () => `${wrong.length} tensors differ: ${wrong.slice(0, 3).join(', ')}`,
  );
}
