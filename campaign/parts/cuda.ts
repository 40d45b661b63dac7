// Random models on the cuda device, over a stand-in for NVIDIA's driver that runs kernels on the CPU. They must have
// the bits of the native device, also if a run goes from one device to the other in a checkpoint. Any call of the
// driver may fail: then a call of the session is refused with an error, and what is computed after it has the right
// bits or is refused too.
import fc from 'fast-check';
import { UserError } from '../../src/base/errors.ts';
import { CudaError } from '../../src/device/cuda/errors.ts';
import { compile } from '../../src/session/node.ts';
import type { Session } from '../../src/session/session.ts';
import { NonFiniteError } from '../../src/session/step.ts';
import { failing, hasFired, noStandin } from '../../tests/support/cuda/standin.ts';
import { stateBits } from '../../tests/support/state-bits.ts';
import { assertPromise, type AttackContext, type Part } from '../part.ts';
import { batchFor, buildModel, optionsFor, randomModel, type RandomModel } from '../support/random-model.ts';

interface Case {
  readonly model: RandomModel;
  readonly steps: number;
  /** After how many steps a checkpoint continues on the other device. */
  readonly moves: number;
  readonly onto: 'cuda' | 'native';
  /** Which call fails: the n-th of a function, or the n-th kernel. */
  readonly fails: { readonly name: string; readonly n: number };
}

const CALLS = [
  'cuMemAlloc_v2',
  'cuMemAlloc_v2',
  'cuMemHostAlloc',
  'cuMemcpyHtoDAsync_v2',
  'cuMemcpyDtoHAsync_v2',
  'cuMemsetD8Async',
  'cuModuleLoadData',
  'cuGraphAddKernelNode_v2',
  'cuGraphInstantiateWithFlags',
  'cuGraphLaunch',
  'cuEventRecord',
  'cuEventQuery',
  'cuStreamCreate',
  'cuCtxSetCurrent',
  'nvrtcCompileProgram',
  'kernel',
];

export const cuda: Part<Case> = {
  name: 'cuda',
  promise:
    'the cuda device has the bits of native, and a call of the driver that fails gives an error and nothing wrong',
  share: 2,
  limit: 180,
  knownFaults: ['flipped-bit-cuda'],
  missing: () => noStandin,
  cases: fc.record({
    model: randomModel,
    steps: fc.constantFrom(1, 2),
    moves: fc.constantFrom(1, 2),
    onto: fc.constantFrom<('cuda' | 'native')[]>('cuda', 'native'),
    fails: fc.record({ name: fc.constantFrom(...CALLS), n: fc.oneof(fc.nat(3), fc.nat(3), fc.nat(20), fc.nat(120)) }),
  }),
  attack,
};

type On = 'cuda' | 'native';
const BITS = 'the cuda device has the bits of native',
  ERRORS = 'a call of the driver that fails gives an error that says so';

async function attack({ model, steps, moves, onto, fails }: Case, context: AttackContext): Promise<void> {
  const want = await trained(model, 'native', 0, steps + moves),
    got = await trained(model, 'cuda', 0, steps + moves);
  context.count('models');
  same(want, got, `${steps + moves} steps on cuda`);
  if ('refused' in want) {
    context.count('models that are refused');
    return;
  }
  const from = onto === 'cuda' ? 'native' : 'cuda',
    half = await trained(model, from, 0, steps);
  same(
    want,
    await trained(model, onto, steps, moves, 'refused' in half ? undefined : half.checkpoint),
    `${from} to ${onto}`,
  );
  context.count(`checkpoints to ${onto}`);
  await withFault(model, steps, fails, context);
}

interface Trained {
  readonly numbers: readonly string[];
  readonly states: Readonly<Record<string, string>>;
  readonly checkpoint: Uint8Array;
}
type Result = Trained | { readonly refused: string };

const open = (model: RandomModel, device: On): Promise<Session> =>
  compile(buildModel(model), { ...optionsFor(model), device, ...(device === 'native' && { threads: 1 }) });

/** Steps `from` to from + steps - 1, after a checkpoint if one is given. */
async function trained(
  model: RandomModel,
  device: On,
  from: number,
  steps: number,
  checkpoint?: Uint8Array,
): Promise<Result> {
  const session = await open(model, device);
  try {
    if (checkpoint) await session.deserialize(checkpoint);
    const numbers: string[] = [];
    for (let i = from; i < from + steps; i++) numbers.push(await numbersOf(session, model, i));
    return { numbers, states: await stateBits(session), checkpoint: await session.serialize() };
  } catch (error) {
    if (error instanceof NonFiniteError) return { refused: `step ${error.step} is not finite` };
    if (error instanceof UserError) return { refused: error.message.split('\n')[0] };
    throw error;
  } finally {
    await session.close();
  }
}

async function numbersOf(session: Session, model: RandomModel, step: number): Promise<string> {
  const { loss, gradNorm, aux, stats } = await session.step(batchFor(model, step));
  return JSON.stringify([loss, gradNorm, aux, Object.entries(stats).map(([name, { data }]) => [name, [...data]])]);
}

/** The last steps and the states of two runs must be equal. */
function same(want: Result, got: Result, what: string): void {
  const refused = (r: Result): string | null => ('refused' in r ? r.refused : null);
  assertPromise(
    'a model is refused everywhere or nowhere',
    (refused(want) === null) === (refused(got) === null),
    () => `native: ${refused(want) ?? 'trains'}; ${what}: ${refused(got) ?? 'trains'}`,
  );
  if ('refused' in want || 'refused' in got) return;
  const numbers = want.numbers.slice(-got.numbers.length);
  assertPromise(
    BITS,
    numbers.join() === got.numbers.join(),
    () => `${what}: ${got.numbers.join()}, on native ${numbers.join()}`,
  );
  const wrong = Object.keys(want.states).filter((name) => want.states[name] !== got.states[name]);
  assertPromise(BITS, wrong.length === 0, () => `${what}: ${wrong.join(', ')} differ`);
}

/** Trains while a call fails once. */
async function withFault(
  model: RandomModel,
  steps: number,
  { name, n }: Case['fails'],
  context: AttackContext,
): Promise<void> {
  const told: string[] = [];
  let session: Session | null = null,
    done = 0,
    fired = false;
  await failing(name, n + 1, async () => {
    // A step that fails changes nothing, so it may be tried again.
    for (let tries = 0; done < steps && tries < steps + 3; tries++) {
      try {
        session ??= await open(model, 'cuda');
        told[done] = await numbersOf(session, model, done);
        done++;
      } catch (error) {
        assertPromise(
          ERRORS,
          error instanceof UserError || error instanceof CudaError,
          () => `the call ${n + 1} of ${name} fails: ${String(error)}`,
        );
      }
    }
    fired = hasFired();
  });
  context.count(fired ? `calls that failed: ${name}` : 'faults beyond the last call');
  const got: Result =
    session !== null && done === steps
      ? await finished(session, told)
      : { refused: `the call ${n + 1} of ${name} ends the device` };
  await (session as Session | null)?.close();
  if ('refused' in got) context.count('runs that a failing call ended');
  else same(await trained(model, 'native', 0, steps), got, `after the call ${n + 1} of ${name} has failed`);
}

/** Reading may be refused too, if the device has failed after the last step. */
async function finished(session: Session, numbers: readonly string[]): Promise<Result> {
  try {
    return { numbers, states: await stateBits(session), checkpoint: new Uint8Array() };
  } catch (error) {
    if (error instanceof UserError || error instanceof CudaError) return { refused: error.message };
    throw error;
  }
}
