// The format of checkpoints: a safetensors file. In: named tensors and metadata; out: bytes; and back.
// checkpoint-file.ts reads and writes files. Parameters have their dotted names; other states have names with slashes
// (`optim/m/blocks.0.w`), so every reader of safetensors finds the parameters. Everything else is JSON in the file's
// metadata, under the key `dynamoe`.
import { UserError } from '../base/errors.ts';
import { MOST_PARTS } from '../base/parts.ts';
import { jsonText, type Json } from './json.ts';
import {
  bytesSource,
  encodeSafetensors,
  openSource,
  type Safetensors,
  type TensorSource,
} from './safetensors-bytes.ts';

const KEY = 'dynamoe';
const VERSION = 1;

/** The metadata of a checkpoint, all plain data. */
export interface CheckpointMeta {
  readonly step: number; // steps committed
  readonly seed: number; // of the run's random streams, which are counter-based: seed and step are their whole state
  /** In how many parts sums over samples are added; absent, as in files of older versions: one. */
  readonly parts?: number;
  readonly config: Json; // the configuration that rebuilds the model
  readonly optimizer: Json; // its name, its hyper-parameters, its schedule
  readonly data: Json; // the position in the data: fingerprint, options, the next step's batch
  /** Names without a slash that are not parameters: states of the caller's own graphs. */
  readonly states?: readonly string[];
  readonly precision?: string; // what the run stores in 16 bits (CompileOptions.precision); absent: nothing
  readonly plan?: Json; // the model's knobs, the state of the recompilation engine, the decision log
  readonly extra?: Json; // anything else that the writer wants to store
}

export interface CheckpointContent {
  readonly tensors: readonly TensorSource[];
  readonly meta: CheckpointMeta;
}

/** An open checkpoint: `file.tensors` lists the tensors, `file.read(name)` reads one. Close `file` after use. */
export interface Checkpoint {
  readonly meta: CheckpointMeta;
  readonly file: Safetensors;
}

/**
 * The name of a state that belongs to a parameter: `stateName('optim', 'm', 'blocks.0.w')` is `optim/m/blocks.0.w`.
 */
export const stateName = (...parts: readonly string[]): string => parts.join('/');

/**
 * The bytes of a checkpoint, in chunks. Tensors are requested one at a time; none may change until the last chunk is
 * taken.
 */
export const encodeCheckpoint = ({ tensors, meta }: CheckpointContent): AsyncGenerator<Uint8Array, void, undefined> =>
  encodeSafetensors(tensors, { [KEY]: jsonText({ version: VERSION, ...meta }) });

/** The bytes of a checkpoint in one array. */
export async function checkpointBytes(content: CheckpointContent): Promise<Uint8Array<ArrayBuffer>> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of encodeCheckpoint(content)) chunks.push(chunk);
  const bytes = new Uint8Array(chunks.reduce((n, c) => n + c.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}

/** Opens a checkpoint in memory. Rejects with a UserError if the bytes are damaged or not a checkpoint. */
export const decodeCheckpoint = async (bytes: Uint8Array, where: string): Promise<Checkpoint> =>
  asCheckpoint(await openSource(bytesSource(bytes, where)));

/** Reads the metadata of an open file, but no tensors. Closes the file if it is not a checkpoint. */
export async function asCheckpoint(file: Safetensors): Promise<Checkpoint> {
  try {
    const text = file.metadata.get(KEY);
    if (text === undefined) {
      throw new UserError(
        `${file.where} holds tensors but is not a DynaMoE checkpoint: its metadata has no "${KEY}"`,
        'use a file that `dynamoe train` or `session.save` wrote',
      );
    }
    return { meta: parseMeta(text, file.where), file };
  } catch (error) {
    await file.close();
    throw error;
  }
}

function parseMeta(text: string, path: string): CheckpointMeta {
  let meta: CheckpointMeta & { readonly version?: number };
  try {
    meta = JSON.parse(text) as CheckpointMeta & { readonly version?: number };
  } catch (error) {
    throw new UserError(
      `${path}: the checkpoint's metadata is not JSON`,
      'the file is damaged; use an older checkpoint',
      error,
    );
  }
  if (typeof meta !== 'object' || meta === null || typeof meta.version !== 'number') {
    throw new UserError(
      `${path}: the checkpoint's metadata has no version`,
      'the file is damaged; use an older checkpoint',
    );
  }
  if (meta.version > VERSION) {
    throw new UserError(
      `${path} was written by a newer DynaMoE (checkpoint format ${meta.version}, this one reads ${VERSION})`,
      'update DynaMoE',
    );
  }
  if (!Number.isSafeInteger(meta.step) || meta.step < 0 || !Number.isFinite(meta.seed)) {
    throw new UserError(
      `${path}: the checkpoint's metadata has no step or no seed`,
      'the file is damaged; use an older checkpoint',
    );
  }
  const { parts = 1 } = meta;
  if (!(parts >= 1 && parts <= MOST_PARTS && Number.isInteger(Math.log2(parts))))
    throw new UserError(
      `${path}: the checkpoint's metadata has no valid number of parts (${String(parts)})`,
      'the file is damaged, or was written by a newer DynaMoE',
    );
  const states: unknown = meta.states ?? [];
  if (!Array.isArray(states) || !states.every((name) => typeof name === 'string')) {
    throw new UserError(
      `${path}: \`states\` in the checkpoint's metadata is not a list of names`,
      'the file is damaged; use an older checkpoint',
    );
  }
  const { version: _, ...rest } = meta;
  return rest;
}
