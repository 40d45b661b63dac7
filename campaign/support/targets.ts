// The readers of files. For every format: a name, an example in the corpus, the reader, and a check of its result by
// other means.
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { hostTensor } from '../../src/base/tensor.ts';
import { cifar10 } from '../../src/data/cifar.ts';
import { readIdx } from '../../src/data/idx.ts';
import { mnist } from '../../src/data/mnist.ts';
import { text } from '../../src/data/text-files.ts';
import { loadCheckpoint } from '../../src/io/checkpoint-file.ts';
import { EventLog } from '../../src/io/event-log.ts';
import { openRun, storedSettings } from '../../src/io/run-folder.ts';
import { openSafetensors } from '../../src/io/safetensors-file.ts';
import { crossEntropy } from '../../src/nn/loss.ts';
import { TransformerLM } from '../../src/nn/transformer.ts';
import { adamW } from '../../src/optim/adam.ts';
import { adaptCapacity } from '../../src/recompile/policies/adaptCapacity.ts';
import { replay } from '../../src/recompile/lab/replay.ts';
import { parseTrace } from '../../src/recompile/lab/trace.ts';
import { compile } from '../../src/session/node.ts';
import type { Session } from '../../src/session/session.ts';
import { NonFiniteError } from '../../src/session/step.ts';
import { configure, parseSettings, rebuild } from '../../src/train/configure.ts';
import { fingerprint } from '../../tests/support/toy.ts';
import { assertPromise } from '../part.ts';
import { readAsDash } from './run-files.ts';

interface Target {
  /** The name of the file that is read. */
  readonly name: string;
  /** The example: campaign/corpus/NAME. */
  readonly corpus: string;
  readonly format: string;
  /** Packed by gzip. */
  readonly packed?: boolean;
  /**
   * Reads the file. Throws the error of the reader, or Broken if the reader returns something that is not in the file.
   */
  read(path: string, bytes: Buffer): Promise<void>;
}

export const corpusFile = (name: string): string => fileURLToPath(new URL(`../corpus/${name}`, import.meta.url));
const RIGHT = 'what is read is what the file holds';

const TARGETS = {
  safetensors: { name: 'a.safetensors', corpus: 'small.safetensors', format: 'safetensors', read: readTensors },
  checkpoint: { name: 'a.safetensors', corpus: 'checkpoint.safetensors', format: 'safetensors', read: readCheckpoint },
  'newest checkpoint of a run': {
    name: 'step-00000006.safetensors',
    corpus: 'checkpoint.safetensors',
    format: 'safetensors',
    read: (path) => readRun(path, 'checkpoint'),
  },
  'log of a run': { name: 'events.jsonl', corpus: 'events.jsonl', format: 'log', read: (path) => readRun(path, 'log') },
  'settings of a run': { name: 'run.json', corpus: 'run.json', format: 'settings', read: readSettings },
  log: { name: 'events.jsonl', corpus: 'events.jsonl', format: 'log', read: readLog },
  idx: {
    name: 'images-idx3-ubyte',
    corpus: 'images-idx3-ubyte',
    format: 'idx',
    read: (path, bytes) => readImages(path, bytes),
  },
  'idx, gzip': {
    name: 'images-idx3-ubyte.gz',
    corpus: 'images-idx3-ubyte',
    format: 'idx',
    packed: true,
    read: (path, bytes) => readImages(path, bytes),
  },
  labels: { name: 'labels-idx1-ubyte', corpus: 'labels-idx1-ubyte', format: 'idx', read: readLabels },
  cifar: { name: 'data_batch_2.bin', corpus: 'cifar.bin', format: 'cifar', read: readCifar },
  config: {
    name: 'config.json',
    corpus: 'config.json',
    format: 'config',
    read: async (path) => {
      await configure(path, {});
    },
  },
  trace: { name: 'trace.jsonl', corpus: 'trace.jsonl', format: 'trace', read: readTrace },
  text: {
    name: 'book.txt',
    corpus: 'events.jsonl',
    format: 'text',
    read: async (path) => {
      await text(path, { say: () => undefined })
        .batches({ size: 2, context: 8, limit: 1 })
        .at(0);
    },
  },
} as const satisfies Readonly<Record<string, Target>>;
export type TargetName = keyof typeof TARGETS;
export const targets: Readonly<Record<TargetName, Target>> = TARGETS;

async function readTensors(path: string, bytes: Buffer): Promise<void> {
  const file = await openSafetensors(path);
  try {
    const length = Number(bytes.readBigUInt64LE(0)),
      header = JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Record<
        string,
        { dtype: string; shape: number[]; data_offsets: [number, number] }
      >;
    for (const name of file.tensors.keys()) {
      const { data, shape } = await file.read(name),
        {
          dtype,
          data_offsets: [begin, end],
        } = header[name];
      assertPromise(
        RIGHT,
        data.length === shape.reduce((n, d) => n * d, 1) && shape.join() === header[name].shape.join(),
        () => `${name}: ${data.length} elements of shape ${shape.join()}`,
      );
      if (dtype !== 'F32' && dtype !== 'I32') continue;
      const inFile = bytes.subarray(8 + length + begin, 8 + length + end),
        read = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
      assertPromise(RIGHT, inFile.equals(read), () => `${name} has other bytes than the file`);
    }
  } finally {
    await file.close();
  }
}

let session: Promise<Session> | null = null;

/** The model of corpus/checkpoint.safetensors. */
export const corpusSession = (): Promise<Session> =>
  compile(
    new TransformerLM({
      vocab: 7,
      dModel: 4,
      layers: 1,
      heads: 1,
      context: 4,
      moe: { experts: 2, topK: 1, hidden: 3 },
    }),
    {
      loss: crossEntropy,
      optimizer: adamW({ lr: 1e-2 }),
      device: 'wasm',
      threads: 1,
      seed: 1,
      memory: 64e6,
      say: () => undefined,
    },
  );

async function readCheckpoint(path: string): Promise<void> {
  const s = await (session ??= corpusSession());
  await s.load(corpusFile('checkpoint.safetensors'));
  const before = JSON.stringify([s.steps, s.plan(), fingerprint(s)]);
  const error = await s.load(path).then(
    () => null,
    (e: unknown) => ({ e }),
  );
  if (error) {
    assertPromise(
      'a checkpoint that is refused changes nothing',
      JSON.stringify([s.steps, s.plan(), fingerprint(s)]) === before,
      () => `the session was changed by a load that failed: ${String(error.e)}`,
    );
    throw error.e;
  }
  const { file, meta } = await loadCheckpoint(path),
    states = fingerprint(s);
  try {
    assertPromise(
      RIGHT,
      s.steps === meta.step,
      () => `the session is at step ${s.steps}, the file at step ${meta.step}`,
    );
    for (const name of s.named.parameters.keys()) {
      const { data } = await file.read(name);
      assertPromise(
        RIGHT,
        states[name] === Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('base64'),
        () => `${name} is not what the file holds`,
      );
    }
  } finally {
    await file.close();
  }
  const tokens = hostTensor('int32', [1, 4], [1, 2, 3, 4]);
  // Training must continue, unless the numbers in the file make every step non-finite.
  await s.step({ x: tokens, y: tokens }).catch((e: unknown) => {
    if (!(e instanceof NonFiniteError)) throw e;
  });
}

/** A run folder with one complete checkpoint and one damaged file. */
async function readRun(path: string, damaged: 'checkpoint' | 'log'): Promise<void> {
  const folder = join(dirname(path), 'run');
  await mkdir(folder);
  await copyFile(corpusFile('run.json'), join(folder, 'run.json'));
  await copyFile(corpusFile('checkpoint.safetensors'), join(folder, 'step-00000002.safetensors'));
  await copyFile(damaged === 'log' ? path : corpusFile('events.jsonl'), join(folder, 'events.jsonl'));
  if (damaged === 'checkpoint') await copyFile(path, join(folder, 'step-00000006.safetensors'));
  const run = await openRun(folder, { resume: true });
  await run.close();
  assertPromise(
    'a run goes on from its newest checkpoint that is whole',
    run.checkpoint !== undefined && run.checkpoint.step >= 2,
    () => `it goes on from ${run.checkpoint?.step}`,
  );
  await readLog(join(folder, 'events.jsonl'));
}

async function readLog(path: string): Promise<void> {
  const before = await readFile(path),
    log = await EventLog.open(path, 3);
  await log.close();
  const after = await readFile(path);
  assertPromise(
    'a log that is gone on with keeps whole lines of what it was',
    before.subarray(0, after.length).equals(after) && (after.length === 0 || after.at(-1) === 10),
    () => `${after.length} of ${before.length} bytes are left`,
  );
  await writeFile(path, before);
  await readAsDash(dirname(path));
}

async function readSettings(path: string): Promise<void> {
  const stored = await storedSettings(dirname(path));
  if (stored !== undefined) await rebuild(parseSettings(stored, path), path, () => undefined);
}

async function readImages(path: string, bytes: Buffer): Promise<void> {
  const { shape, data } = await readIdx(path, 3),
    plain = bytes[0] === 0x1f && bytes[1] === 0x8b ? gunzipSync(bytes, { maxOutputLength: 1 << 24 }) : bytes;
  assertPromise(
    RIGHT,
    plain.readUInt32BE(0) === 0x803 &&
      shape.every((d, i) => d === plain.readUInt32BE(4 + 4 * i)) &&
      plain.subarray(16).equals(data),
    () => `${data.length} bytes of shape ${shape.join()}`,
  );
}

async function readLabels(path: string): Promise<void> {
  const data = mnist({ images: corpusFile('images-idx3-ubyte'), labels: path });
  const { x, y } = await data.batches({ size: 1, limit: 1 }).at(0);
  assertPromise(RIGHT, x.shape[0] === 1 && y.data[0] >= 0 && y.data[0] <= 255, () => `a label ${y.data[0]}`);
}

async function readCifar(path: string): Promise<void> {
  const folder = dirname(path);
  for (const name of ['data_batch_1.bin', 'data_batch_3.bin', 'data_batch_4.bin', 'data_batch_5.bin', 'test_batch.bin'])
    await copyFile(corpusFile('cifar.bin'), join(folder, name));
  const { x, y } = await cifar10(folder).batches({ size: 2, limit: 1 }).at(0);
  assertPromise(
    RIGHT,
    y.data.every((label) => label >= 0 && label < 10) && (x.data as Float32Array).every((p) => p >= 0 && p <= 1),
    () => 'labels or pixels out of range',
  );
}

async function readTrace(path: string): Promise<void> {
  const trace = parseTrace(await readFile(path, 'utf8'), path);
  if (trace.layers.every(({ experts }) => experts <= 64)) await replay(trace, [adaptCapacity()]);
}
