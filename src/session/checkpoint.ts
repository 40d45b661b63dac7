// Saves a session as a checkpoint, and restores it with the same bits.
import { convert } from '../base/convert.ts';
import type { DType } from '../base/dtype.ts';
import { isHalf } from '../base/half.ts';
import { UserError } from '../base/errors.ts';
import { checkSeed } from '../base/random.ts';
import type { Run } from '../base/runs.ts';
import type { HostTensor } from '../base/tensor.ts';
import { isParameter } from '../graph/state.ts';
import type { Checkpoint, CheckpointContent, CheckpointMeta } from '../io/checkpoint.ts';
import type { Json } from '../io/json.ts';
import type { Safetensors } from '../io/safetensors-bytes.ts';
import { ownerOf } from '../optim/updates.ts';
import type { Named } from '../trace/module.ts';
import { differences, foreignMoments, updatingIn } from './differences.ts';
import { storedDtype } from './precision.ts';
import type { Value } from './states.ts';
import { checkValues, type Resumed, type Saved } from './values.ts';

export { checkpointBytes, decodeCheckpoint } from '../io/checkpoint.ts';

/**
 * All tensors and metadata of a session. own: the caller's metadata, such as the configuration and the position in the
 * data.
 */
export function contentOf(session: Saved, own: { config: Json; data: Json; extra?: Json }): CheckpointContent {
  const { optimizer, precision } = session.options,
    { parts, ...updating } = session.updating(),
    all = session.states();
  const states = all.map(({ name }) => name).filter((name) => isParameter(name) && !session.named.parameters.has(name));
  return {
    tensors: all.map(({ name, dtype, shape, readAsync }) => ({
      name,
      dtype,
      shape,
      data: async () => (await readAsync()).data,
    })),
    meta: {
      step: session.steps,
      seed: session.seed,
      ...(parts !== undefined && { parts }),
      optimizer: optimizer ? { name: optimizer.name, ...optimizer.settings, ...plain(updating) } : {},
      plan: plain(session.plan()),
      ...(precision !== undefined && precision !== 'float32' && { precision }),
      ...(states.length > 0 && { states }),
      ...own,
    },
  };
}

type JsonObject = { readonly [key: string]: Json };
const plain = (value: object): JsonObject => JSON.parse(JSON.stringify(value)) as JsonObject;

/** What a checkpoint gives a session. */
export interface Given {
  readonly values: readonly Value[];
  readonly whole: Resumed | undefined;
  /** What differs from the session that wrote it, one line each. */
  readonly told: readonly string[];
}

/**
 * Reads a checkpoint, checks it, and closes it. what: 'all' to continue training, 'parameters' to use the model only.
 * runsOf: which elements of a state this rank needs; undefined: all. Rejects with a UserError if the checkpoint does
 * not fit the model.
 */
export async function readFrom(
  session: Saved,
  { meta, file }: Checkpoint,
  what: 'all' | 'parameters',
  runsOf: (name: string) => readonly Run[] | undefined,
): Promise<Given> {
  try {
    const { optimizer, precision, seed } = session.options,
      values: Value[] = [];
    let rounded = 0;
    const states = new Set(meta.states);
    const foreign = foreignMoments(what === 'all' ? optimizer : undefined, session.named, file.tensors.keys());
    for (const name of file.tensors.keys()) {
      if (foreign.has(name)) continue;
      if (!isParameter(name, states) && what === 'parameters') continue;
      if (isParameter(name, states) && !session.named.parameters.has(name))
        throw misfit(file.where, `it has a parameter ${name}, which the model does not have`);
      const { value, part } = await valueIn(file, name, session.named, runsOf(name)),
        dtype = storedDtype(session.named, precision, name),
        converts = dtype !== null && dtype !== value.dtype && isStoredFloat(dtype) && isStoredFloat(value.dtype);
      if (converts && isHalf(dtype)) rounded++;
      values.push({ name, value: converts ? converted(value, dtype) : value, part });
    }
    const missing = [...session.named.parameters.keys()].find((name) => !file.tensors.has(name));
    if (missing !== undefined) throw misfit(file.where, `it lacks the parameter ${missing} of the model`);
    checkValues(session, values, file.where, states);
    const going = { optimizer, precision, seed, updating: session.updating() };
    const told = what === 'all' ? differences(going, meta, foreign.size) : [];
    if (rounded > 0) told.push(`${rounded} tensors of the checkpoint were rounded to bfloat16`);
    return { values, whole: what === 'all' ? wholeOf(session, meta, file.where) : undefined, told };
  } finally {
    await file.close();
  }
}

/** A value, or some of its elements, in another dtype. */
const converted = (value: HostTensor, dtype: DType): HostTensor => ({
  ...convert({ ...value, shape: [value.data.length] }, dtype),
  shape: value.shape,
});

/** The value of a tensor, or its elements of these runs if it has the shape that the model expects. */
async function valueIn(
  file: Safetensors,
  name: string,
  { parameters }: Named,
  runs: readonly Run[] | undefined,
): Promise<{ readonly value: HostTensor; readonly part: boolean }> {
  const shape = file.tensors.get(name)?.shape ?? [],
    part = runs !== undefined && parameters.get(ownerOf(name) ?? name)?.shape.join() === shape.join();
  return { value: part ? await file.readRuns(name, runs) : await file.read(name), part };
}

/** Whether sessions store floats of this dtype: a checkpoint's are converted from one to another of these. */
const isStoredFloat = (dtype: DType): boolean => dtype === 'float32' || isHalf(dtype);

/** Seed and optimiser state in a checkpoint. Throws UserError if they are not valid: the file may be damaged. */
const wholeOf = ({ named }: Saved, meta: CheckpointMeta, where: string): Resumed => ({
  seed: checkSeed(where, meta.seed),
  updating: updatingIn(meta, named, where),
});

/** Restores the plan in a checkpoint, which may be damaged: the whole plan, or nothing and a UserError. */
export function restorePlanOrNothing(
  session: Pick<Saved, 'plan'>,
  restore: (plan: never, what: 'all' | 'parameters') => void,
  plan: Json,
  what: 'all' | 'parameters',
  where: string,
): void {
  const before = JSON.parse(JSON.stringify(session.plan())) as Json;
  try {
    restore(plan as never, what);
  } catch (error) {
    restore(before as never, 'all');
    const [why] = (error instanceof Error ? error.message : String(error)).split('\n');
    throw new UserError(
      `${where}: the settings in its plan cannot be restored: ${why}`,
      'the file is damaged, or belongs to another model',
      error,
    );
  }
}

const misfit = (where: string, what: string): UserError =>
  new UserError(
    `${where} does not fit the model: ${what}`,
    'the checkpoint belongs to another model, or the config file that built it has changed',
  );
