// Random models. Native and wasm must give the same bits with 1 and 2 threads, the results must be near the float64
// reference, gradients must agree with finite differences, and a checkpoint must continue with the same bits.
import fc from 'fast-check';
import { UserError } from '../../src/base/errors.ts';
import { Stream } from '../../src/base/random.ts';
import { hostTensor, type Batch, type HostTensor } from '../../src/base/tensor.ts';
import { sgd } from '../../src/optim/sgd.ts';
import { compile } from '../../src/session/node.ts';
import type { DeviceName } from '../../src/session/platform.ts';
import type { Session } from '../../src/session/session.ts';
import { NonFiniteError, type StepResult } from '../../src/session/step.ts';
import { fingerprint, noCompiler } from '../../tests/support/toy.ts';
import { BrokenPromise, assertPromise, type Part, type AttackContext } from '../part.ts';
import { batchFor, buildModel, optionsFor, randomModel, type RandomModel } from '../support/random-model.ts';

/** A batch of another shape than the model's usual one; padded: its sequences have several lengths. */
interface Sizes {
  readonly samples: number;
  readonly time: number;
  readonly padded: boolean;
}

interface Case {
  readonly model: RandomModel;
  readonly steps: number;
  /** Batches of a run of a language model. Absent in cases from before there was a choice. */
  readonly shapes?: { readonly device: DeviceName; readonly batches: readonly Sizes[] };
}

const sizes: fc.Arbitrary<Sizes> = fc.record({
  samples: fc.constantFrom(1, 2, 3, 5, 9),
  time: fc.constantFrom(1, 2, 3, 6, 10, 17),
  padded: fc.boolean(),
});
const shapes = fc.record({
  device: fc.constantFrom<DeviceName[]>('wasm', 'wasm', 'native'),
  batches: fc.array(sizes, { minLength: 2, maxLength: 4 }),
});

export const models: Part<Case> = {
  name: 'models',
  promise:
    'a model trains to the same bits on every device and number of threads, near the float64 reference, ' +
    'with correct gradients',
  share: 4,
  limit: 120,
  knownFaults: ['flipped-bit', 'flipped-bit-wasm'],
  cases: fc.record({ model: randomModel, steps: fc.constantFrom(1, 2), shapes }),
  attack,
};

type Steps =
  | { readonly results: readonly StepResult[]; readonly states: Readonly<Record<string, string>> }
  | { readonly refused: string };

async function attack({ model, steps, shapes: several }: Case, context: AttackContext): Promise<void> {
  const first = await trained(model, steps, 'wasm', 1);
  context.count(`models ${model.kind}`);
  if ('refused' in first) context.count('models that are refused');
  for (const [device, threads] of [
    ['wasm', 2],
    ...(noCompiler
      ? []
      : ([
          ['native', 2],
          ['native', 1],
        ] as const)),
  ] as const)
    same(first, await trained(model, steps, device, threads), `${device}, ${threads} threads`);
  const reference = await trained(model, steps, 'reference', 1);
  if ('refused' in first || 'refused' in reference) {
    same(first, reference, 'the reference');
    return;
  }
  await compareWithReference(model, first.results[0], reference.results[0], context);
  await continues(model, steps);
  if (several && model.kind === 'lm') await severalShapes(model, several, context);
  if (await gradients(model)) context.count('gradients checked');
}

/** The losses and final values of some steps; or the reason why the model or its steps are refused. */
async function trained(model: RandomModel, steps: number, device: DeviceName, threads: number): Promise<Steps> {
  return opened(model, device, threads, async (session) => {
    const results: StepResult[] = [];
    for (let i = 0; i < steps; i++) results.push(await session.step(batchFor(model, i)));
    return { results, states: device === 'reference' ? {} : fingerprint(session) };
  });
}

async function opened<T>(
  model: RandomModel,
  device: DeviceName,
  threads: number,
  work: (session: Session) => Promise<T>,
  more: object = {},
): Promise<T | { readonly refused: string }> {
  let session: Session | null = null;
  try {
    session = await compile(buildModel(model), { ...optionsFor(model), device, threads, ...more });
    return await work(session);
  } catch (error) {
    if (error instanceof NonFiniteError) return { refused: `step ${error.step} is not finite` };
    if (error instanceof UserError && !(error instanceof BrokenPromise))
      return { refused: error.message.split('\n')[0] };
    throw error;
  } finally {
    await session?.close();
  }
}

function same(want: Steps, got: Steps, where: string): void {
  const promise = 'native and wasm give the same bits, whatever the number of threads';
  if ('refused' in want || 'refused' in got) {
    assertPromise(
      'a model is refused everywhere or nowhere',
      'refused' in want && 'refused' in got,
      () =>
        `wasm: ${'refused' in want ? want.refused : 'trains'}; ${where}: ${'refused' in got ? got.refused : 'trains'}`,
    );
    return;
  }
  want.results.forEach((w, i) => {
    const g = got.results[i],
      numbers = ({ loss, gradNorm, aux }: StepResult): string => JSON.stringify([loss, gradNorm, aux]);
    assertPromise(
      promise,
      numbers(w) === numbers(g),
      () => `step ${i + 1} gives ${numbers(w)} on wasm with 1 thread, ${numbers(g)} on ${where}`,
    );
    for (const [name, { data }] of Object.entries(w.stats))
      assertPromise(
        promise,
        `${data.join()}` === `${g.stats[name].data.join()}`,
        () => `${name} of step ${i + 1}: ${data.join()} on wasm, ${g.stats[name].data.join()} on ${where}`,
      );
  });
  const wrong = Object.keys(want.states).filter((name) => want.states[name] !== got.states[name]);
  assertPromise(
    promise,
    wrong.length === 0,
    () => `after ${want.results.length} steps ${wrong.join(', ')} differ between wasm and ${where}`,
  );
}

const CONTINUES = 'a checkpoint continues with the same bits';
const NEAR = 2e-3; // allowed relative difference of the losses in float32 and float64
const NEAR_SHORT = 0.1; // where values are stored in bfloat16, which has 8 bits

/**
 * If two scores are equal in float32, the choices of experts may differ from the reference. They would also differ with
 * another rounding, so such a model is not compared.
 */
async function compareWithReference(
  model: RandomModel,
  got: StepResult,
  want: StepResult,
  context: AttackContext,
): Promise<void> {
  const loads = ({ stats }: StepResult): string =>
    Object.entries(stats)
      .filter(([name]) => name.endsWith('/load'))
      .map(([name, { data }]) => `${name} ${data.join()}`)
      .join('; ');
  if (loads(got) !== loads(want)) {
    context.count('models with scores too near to compare');
    return;
  }
  const near = (model.precision ?? 'float32') === 'float32' ? NEAR : NEAR_SHORT;
  const close = (a: number, b: number): boolean =>
    Math.abs(a - b) <= near * Math.max(1, Math.abs(b)) || (Number.isNaN(a) && Number.isNaN(b));
  const pairs: [string, number, number][] = [
    ['loss', got.loss, want.loss],
    ['the norm of the gradient', got.gradNorm, want.gradNorm],
    ...Object.keys(want.aux).map((name): [string, number, number] => [name, got.aux[name], want.aux[name]]),
  ];
  for (const [what, a, b] of pairs) {
    if (close(a, b)) continue;
    if (await isSensitive(model, want)) {
      context.count('models with scores too near to compare');
      return;
    }
    throw new BrokenPromise(
      'devices are near the float64 reference',
      `${what}: ${a} on the device, ${b} on the reference`,
    );
  }
  context.count('models compared with the reference');
}

/** Whether the loss or the gradient norm of the reference jumps when parameters change by a float32 rounding error. */
async function isSensitive(model: RandomModel, want: StepResult): Promise<boolean> {
  for (let i = 0; i < 4; i++) {
    const moved = await lossAt(model, (name, data) => {
      const s = new Stream(i, name);
      return data.map((x, j) => x * (1 + 4e-7 * (s.uniform(0, j) - 0.5)));
    });
    if (
      moved &&
      (Math.abs(moved.result.loss - want.loss) > 1e-5 ||
        Math.abs(moved.result.gradNorm - want.gradNorm) > 1e-4 * want.gradNorm)
    )
      return true;
  }
  return false;
}

/** Checks that a checkpoint after `steps` steps continues with the same bits in another session. */
async function continues(model: RandomModel, steps: number): Promise<void> {
  const whole = await trained(model, steps + 1, 'wasm', 1);
  const resumed = await opened(model, 'wasm', 2, async (session) => {
    for (let i = 0; i < steps; i++) await session.step(batchFor(model, i));
    const bytes = await session.serialize();
    return opened({ ...model }, 'wasm', 1, async (other) => {
      await other.deserialize(bytes);
      const result = await other.step(batchFor(model, steps));
      return { loss: result.loss, states: fingerprint(other) };
    });
  });
  if ('refused' in whole) return;
  assertPromise(CONTINUES, !('refused' in resumed), () => ('refused' in resumed ? resumed.refused : ''));
  const wrong = Object.keys(whole.states).filter((name) => whole.states[name] !== resumed.states[name]);
  assertPromise(
    CONTINUES,
    wrong.length === 0 && resumed.loss === whole.results[steps].loss,
    () => `loss ${resumed.loss}, not ${whole.results[steps].loss}; ${wrong.join(', ')}`,
  );
}

/** What a step and then an inference of a batch give, as text; or that they are refused. */
async function outcome(session: Session, batch: Batch): Promise<Readonly<Record<string, string>>> {
  try {
    const { loss, gradNorm, aux, stats } = await session.step(batch),
      { output } = await session.forward(batch),
      loads = Object.entries(stats).map(([name, { data }]): [string, string] => [name, data.join()]);
    return {
      numbers: JSON.stringify([loss, gradNorm, aux]),
      output: `${output.shape.join()}: ${output.data.join()}`,
      ...Object.fromEntries(loads),
      ...fingerprint(session),
    };
  } catch (error) {
    if (error instanceof NonFiniteError || error instanceof UserError) return { refused: 'yes' };
    throw error;
  }
}

/** Checks that batches of other shapes, which share a program, have the bits of a session that sees each one first. */
async function severalShapes(
  model: RandomModel,
  { device, batches }: NonNullable<Case['shapes']>,
  context: AttackContext,
): Promise<void> {
  await opened(model, noCompiler ? 'wasm' : device, 2, async (run) => {
    for (const [i, { samples, time, padded }] of batches.entries()) {
      const long = Math.min(time, model.time),
        batch = batchFor({ ...model, time: long }, i, samples * model.accumulate),
        lengths = padded ? lengthsFor(model, i, batch) : null,
        before = await run.serialize(),
        got = await outcome(run, lengths ? { ...batch, lengths } : batch);
      const want = await opened(model, 'wasm', 1, async (alone) => {
        await alone.deserialize(before);
        return outcome(alone, lengths ? { ...withoutPadding(batch, lengths), lengths } : batch);
      });
      const wrong = Object.keys({ ...want, ...got }).filter(
        (key) => got[key] !== (want as Readonly<Record<string, string>>)[key],
      );
      assertPromise(
        'a batch of any shape has the bits of a session that sees this shape first',
        wrong.length === 0,
        () => `batch ${i} of [${batch.x.shape.join()}], lengths ${lengths?.join() ?? 'all'}: ${wrong.join(', ')}`,
      );
      if ('refused' in got) return;
      context.count(`batches of another shape${padded ? ', padded' : ''}`);
    }
  });
}

function lengthsFor({ seed }: RandomModel, step: number, { x: { shape } }: Batch): Int32Array {
  const stream = new Stream(seed, 'lengths'),
    [samples, time] = shape;
  const lengths = Int32Array.from({ length: samples }, (_, i) => Math.floor(stream.uniform(step, i) * (time + 1)));
  if (lengths.every((length) => length === 0)) lengths[samples - 1] = time;
  return lengths;
}

/** The batch with tokens and targets 0 where there is padding. */
function withoutPadding({ x, y }: Batch, lengths: Int32Array): Batch {
  const [, time] = x.shape,
    of = ({ dtype, shape, data }: HostTensor): HostTensor =>
      hostTensor(
        dtype,
        shape,
        Int32Array.from(data, (value, i) => (i % time < lengths[Math.floor(i / time)] ? value : 0)),
      );
  return { x: of(x), y: of(y) };
}

interface At {
  readonly result: StepResult;
  readonly total: number;
  readonly before: Readonly<Record<string, Float64Array>>;
  readonly after: Readonly<Record<string, Float64Array>>;
}

/**
 * The training loss on the reference, with auxiliary losses, for parameters that `move` computes from the starting
 * values. Also the parameters before and after a step of sgd with learning rate 1, whose difference is the gradient.
 * null if the step is not finite.
 */
async function lossAt(
  model: RandomModel,
  move: (name: string, data: Float64Array) => Float64Array,
): Promise<At | null> {
  const plain = { ...model, optimizer: 'sgd', accumulate: 1, split: 1, precision: 'float32' } as const;
  const found = await opened(
    plain,
    'reference',
    1,
    async (session): Promise<At> => {
      const read = (): Record<string, Float64Array> =>
        Object.fromEntries(
          session
            .states()
            .filter(({ name }) => session.named.parameters.get(name)?.trained)
            .map(({ name, read: value }) => [name, Float64Array.from(value().data)]),
        );
      for (const [name, data] of Object.entries(read()))
        session.executor.setState(name, { ...session.executor.typeOf(name) }, move(name, data));
      const before = read(),
        result = await session.step(batchFor(plain, 0)),
        after = read();
      const aux = Object.entries(result.aux).reduce((n, [name, x]) => n + x * (coefficient(plain, name) ?? 0), 0);
      return { result, total: result.loss + aux, before, after };
    },
    { optimizer: sgd({ lr: 1 }), accumulate: 1, split: 1 },
  );
  return 'refused' in found ? null : found;
}

const coefficient = ({ moe }: RandomModel, name: string): number | undefined =>
  moe?.losses[name.split('/').at(-1) as 'z'];

/**
 * Compares the slope along a random direction of all parameters, computed from gradients, with finite differences.
 * Returns false if the step is not finite.
 */
async function gradients(model: RandomModel): Promise<boolean> {
  const at = await lossAt(model, (_, data) => data);
  if (!at) return false;
  const tried: string[] = [];
  for (const h of [1e-5, 1e-6, 1e-7]) {
    const direction = (name: string): Stream => new Stream(model.seed, `${name} ${h}`),
      along =
        (sign: number) =>
        (name: string, data: Float64Array): Float64Array =>
          data.map((x, i) => x + sign * h * (direction(name).uniform(0, i) - 0.5));
    const [up, down] = [await lossAt(model, along(1)), await lossAt(model, along(-1))];
    if (!up || !down) return false;
    let slope = 0,
      size = 0;
    for (const [name, before] of Object.entries(at.before)) {
      const d = direction(name);
      before.forEach((x, i) => {
        const g = x - at.after[name][i],
          step = d.uniform(0, i) - 0.5;
        slope += g * step;
        size += Math.abs(g * step);
      });
    }
    const difference = (up.total - down.total) / (2 * h);
    if (Math.abs(difference - slope) <= 1e-5 * (size + 1e-3) + (2e-9 / h) * 1e-4) return true;
    // The slope may differ near a kink of the function or near another choice of experts: try another direction and a
    // smaller step.
    tried.push(`step ${h}: ${difference} by differences, ${slope} by gradients`);
  }
  throw new BrokenPromise('gradients agree with finite differences', tried.join('; '));
}
