// Tests loggers: the order of their calls, a logger that fails, event files of TensorBoard read by another parser, and
// a user's own training loop.
import assert from 'node:assert/strict';
import { appendFileSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import protobuf from 'protobufjs';
import { hostTensor } from '../../src/base/tensor.ts';
import { crc32c, summaryRecord } from '../../src/io/tfevents.ts';
import { jsonLines, stepEvent, tensorBoard, type LogEvent, type Logger } from '../../src/log.ts';
import { Loggers } from '../../src/train/logger.ts';
import { layersOfModel } from '../../src/recompile/lab/trace.ts';
import { readTrace } from '../../src/recompile/lab/trace-file.ts';
import { traceLog } from '../../src/train/trace-log.ts';
import { LAYER, evalAt, planAt, recompileAt, startAt, steps } from '../dash/events.ts';
import { temporaryFolder } from '../io/folder.ts';
import { toyLM } from '../support/toy.ts';

// The format that TensorBoard reads: tensorflow/core/util/event.proto, framework/summary.proto.
const { root } = protobuf.parse(
  `syntax = "proto3"; package tensorflow;
  message Event { double wall_time = 1; int64 step = 2; oneof what { string file_version = 3; Summary summary = 5; ` +
    `SessionLog session_log = 7; } }
  message SessionLog { enum SessionStatus { STATUS_UNSPECIFIED = 0; START = 1; STOP = 2; CHECKPOINT = 3; } ` +
    `SessionStatus status = 1; string checkpoint_path = 2; string msg = 3; }
  message Summary { message Value { string tag = 1; oneof value { float simple_value = 2; HistogramProto histo = 5; ` +
    `} } repeated Value value = 1; }
  message HistogramProto { double min = 1; double max = 2; double num = 3; double sum = 4; double sum_squares = 5; ` +
    `repeated double bucket_limit = 6 [packed = true]; repeated double bucket = 7 [packed = true]; }`,
  { keepCase: true },
);
const Message = root.lookupType('tensorflow.Event');

interface Histo {
  readonly min: number;
  readonly max: number;
  readonly num: number;
  readonly sum: number;
  readonly sum_squares: number;
  readonly bucket_limit: number[];
  readonly bucket: number[];
}
interface Event {
  readonly wall_time: number;
  readonly step: number;
  readonly file_version?: string;
  readonly session_log?: { readonly status: string };
  readonly summary?: {
    readonly value: { readonly tag: string; readonly simple_value?: number; readonly histo?: Histo }[];
  };
}

/** The decoded records of a file, with their checksums checked. */
function readEvents(path: string): Event[] {
  const file = readFileSync(path),
    events: Event[] = [],
    unmask = (m: number): number => {
      const r = (m - 0xa282ead8) >>> 0;
      return ((r >>> 17) | (r << 15)) >>> 0;
    };
  for (let at = 0; at < file.length;) {
    const length = Number(file.readBigUInt64LE(at)),
      data = file.subarray(at + 12, at + 12 + length);
    assert.equal(unmask(file.readUInt32LE(at + 8)), crc32c(file.subarray(at, at + 8)));
    assert.equal(unmask(file.readUInt32LE(at + 12 + length)), crc32c(data));
    events.push(Message.toObject(Message.decode(data), { longs: Number, enums: String }) as Event);
    at += 16 + length;
  }
  return events;
}

test('CRC-32C has the values of RFC 3720, B.4', () => {
  assert.equal(crc32c(Buffer.from('123456789')), 0xe3069283);
  assert.equal(crc32c(Buffer.alloc(32)), 0x8a9136aa);
  assert.equal(crc32c(Buffer.alloc(32, 0xff)), 0x62a8ab43);
  assert.equal(crc32c(Buffer.from(Array.from({ length: 32 }, (_, i) => i))), 0x46dd794e);
});

test('event files have every step, its scalars and the load of its experts', async (t) => {
  const folder = await temporaryFolder(t),
    logger = tensorBoard();
  await logger.init?.({ folder, settings: {}, step: 0 });
  for (const e of [startAt(), ...steps(1, 300), planAt(1, 1.5), recompileAt(40, true), evalAt(300)]) logger.log(e);
  await logger.finish?.(null);
  const files = readdirSync(join(folder, 'tensorboard'));
  assert.equal(files.length, 1);
  assert.match(files[0], /^events\.out\.tfevents\.\d{10}\./);
  const [version, session, ...rest] = readEvents(join(folder, 'tensorboard', files[0]));
  assert.equal(version.file_version, 'brain.Event:2');
  assert.deepEqual([session.step, session.session_log?.status], [1, 'START']);
  const of = (tag: string) =>
    rest.flatMap(
      (e) =>
        e.summary?.value.filter((v) => v.tag === tag).map((v) => ({ step: e.step, time: e.wall_time, ...v })) ?? [],
    );
  const loss = of('loss/train');
  assert.deepEqual(
    loss.map((l) => l.step),
    Array.from({ length: 300 }, (_, i) => i + 1),
  );
  for (const [i, { simple_value, time }] of loss.entries()) {
    assert.equal(simple_value, Math.fround(5 / Math.sqrt(i + 1)));
    assert.equal(time, 1_790_000_000 + (i + 1) / 100);
  }
  for (const tag of [
    'loss/validation',
    'speed/throughput',
    'speed/step_ms',
    'optimiser/learning_rate',
    'optimiser/grad_norm',
    'memory/resident',
    'memory/planned/arena',
    `moe/${LAYER}/spilled`,
    `moe/${LAYER}/gate_entropy`,
    `aux/${LAYER}/balance`,
    'recompile/adaptCapacity/kept',
  ]) {
    assert.ok(of(tag).length > 0, tag);
  }
  const load = of(`load/${LAYER}`);
  assert.equal(load.length, 300);
  const { histo } = load[299];
  assert.deepEqual(
    { min: 0, ...histo },
    {
      min: 0,
      max: 3,
      num: 64,
      sum: 12 + 2 * 8 + 3 * 4,
      sum_squares: 12 + 4 * 8 + 9 * 4,
      bucket_limit: [-0.5, 0.5, 1.5, 2.5, 3.5],
      bucket: [0, 40, 12, 8, 4],
    },
  );

  // A resumed run writes a second file, which says from which step on the first file is no longer valid.
  const again = tensorBoard();
  await again.init?.({ folder, settings: {}, step: 250 });
  await again.finish?.(null);
  const second = readdirSync(join(folder, 'tensorboard')).find((name) => name !== files[0]);
  assert.equal(readEvents(join(folder, 'tensorboard', second ?? ''))[1].step, 251);
});

test('loggers get events in order; one that fails is reported and removed; a failing run log throws', async () => {
  const calls: string[] = [],
    said: string[] = [],
    kept: LogEvent[] = [];
  const good: Logger = {
    init: () => {
      calls.push('init');
    },
    log: (e) => {
      calls.push(e.event);
    },
    finish: (f) => {
      calls.push(`finish ${f}`);
    },
  };
  const bad: Logger = {
    log: () => {
      throw new Error('disk full');
    },
    finish: () => {
      calls.push('never');
    },
  };
  const late: Logger = {
    init: async () => {
      throw new Error('no service');
    },
    log: () => {
      calls.push('never');
    },
  };
  const all = new Loggers(
    [late, bad, good],
    (e) => {
      kept.push(e);
    },
    (line) => {
      said.push(line);
    },
  );
  await all.init({ folder: '.', settings: {}, step: 0 });
  all.log({ event: 'checkpoint', step: 1, checkpoint: 'c', ms: 1 });
  all.log({ event: 'stopped', step: 1, checkpoint: 'c' });
  await all.finish(null);
  assert.deepEqual(calls, ['init', 'checkpoint', 'stopped', 'finish null']);
  assert.deepEqual(said, ['a logger failed and is left out: no service', 'a logger failed and is left out: disk full']);
  assert.ok(kept.length === 2 && kept.every((e) => Math.abs(e.time - Date.now() / 1000) < 60));
  calls.length = 0;
  const early = new Loggers(
    [good],
    (e) => {
      kept.push(e);
    },
    () => undefined,
  );
  await early.fail(0, new Error('before it began'));
  await early.init({ folder: '.', settings: {}, step: 0 });
  await early.fail(3, new Error('broken\n  hint'));
  assert.deepEqual(
    [calls, kept.slice(2).map((e) => e.event === 'failed' && [e.step, e.error])],
    [['init', 'failed', 'finish Error: broken\n  hint'], [[3, 'broken']]],
  );
  const strict = new Loggers(
    [],
    () => {
      throw new Error('no space');
    },
    () => undefined,
  );
  assert.throws(() => {
    strict.log({ event: 'stopped', step: 1, checkpoint: 'c' });
  }, /no space/);
});

test("a user's own training loop writes a log that can be read", async (t) => {
  const folder = join(await temporaryFolder(t), 'mine'),
    logger = jsonLines();
  await logger.init?.({ folder, settings: {}, step: 0 });
  const stats = {
    'moe/load': hostTensor('int32', [2], [3, 5]),
    'moe/dropped': hostTensor('int32', [2], [1, 1]),
    'moe/gateEntropy': hostTensor('float32', [], [0.5]),
    'odd/gateEntropy': hostTensor('float32', [], [NaN]),
  };
  const event = stepEvent({ step: 7, loss: 1.5, aux: { 'moe/z': 1 / 3 }, stats, gradNorm: 2 }, { ms: 4, count: 100 });
  logger.log({ ...event, time: 1 });
  assert.deepEqual(JSON.parse(readFileSync(join(folder, 'events.jsonl'), 'utf8')), {
    event: 'step',
    step: 7,
    loss: 1.5,
    aux: { 'moe/z': 0.333333 },
    tokens_per_s: 25000,
    ms: 4,
    grad_norm: 2,
    load: { moe: [3, 5] },
    layers: { moe: { dropped: 2, gate_entropy: 0.5 } },
    time: 1,
  });
});

test('event files are flushed before a checkpoint, so that a killed and resumed run misses no step', async (t) => {
  const folder = await temporaryFolder(t),
    logger = tensorBoard();
  await logger.init?.({ folder, settings: {}, step: 0 });
  for (const e of steps(1, 5)) logger.log(e);
  logger.flush?.();
  const [file] = readdirSync(join(folder, 'tensorboard'));
  const seen = readEvents(join(folder, 'tensorboard', file)).flatMap((e) => (e.summary ? [e.step] : []));
  assert.deepEqual(seen, [1, 2, 3, 4, 5]);
});

test('the trace of a run without a checkpoint is overwritten only when that run is resumed', async (t) => {
  const folder = await temporaryFolder(t),
    path = join(folder, 'trace.jsonl'),
    model = toyLM(),
    info = { folder, settings: {}, step: 0 };
  await traceLog(path, model).init?.(info);
  const begun = readFileSync(path, 'utf8');
  await traceLog(path, model, { resumed: true }).init?.(info);
  assert.equal(readFileSync(path, 'utf8'), begun);
  assert.throws(() => traceLog(path, model), /exists already/);
  await assert.rejects(
    async () => traceLog(path, toyLM({ experts: 2 }), { resumed: true }).init?.(info),
    /exists already/,
  );
  assert.equal(readFileSync(path, 'utf8'), begun);
});

test('a trace is continued after the checkpoint, without incomplete lines and later steps', async (t) => {
  const folder = await temporaryFolder(t),
    path = join(folder, 'trace.jsonl'),
    model = toyLM(),
    load = Object.fromEntries(layersOfModel(model).map((l) => [l.path, new Array<number>(l.experts).fill(1)]));
  const log = traceLog(path, model),
    step = (n: number): LogEvent => ({
      event: 'step',
      step: n,
      load,
      loss: 1,
      aux: {},
      tokens_per_s: 1,
      ms: 1,
      grad_norm: 1,
      time: 0,
    });
  await log.init?.({ folder, settings: {}, step: 0 });
  for (const n of [1, 2, 3]) log.log(step(n));
  appendFileSync(path, '{"step":3,"lo\n\0\0\n');
  for (const n of [4, 5]) log.log(step(n));
  appendFileSync(path, '{"step":6,"lo');
  const said: string[] = [],
    read = await readTrace(path, (line) => {
      said.push(line);
    });
  assert.equal(read.loads.length, 5);
  assert.match(said.join(), /left out 3 torn lines \(lines 5, 6, 9\)$/);
  const again = traceLog(path, model, { resumed: true });
  await again.init?.({ folder, settings: {}, step: 4 });
  again.log(step(5));
  const steps = readFileSync(path, 'utf8')
    .split('\n')
    .flatMap((line) => {
      try {
        return [(JSON.parse(line) as { step?: number }).step];
      } catch {
        return [];
      }
    });
  assert.deepEqual(steps, [undefined, 1, 2, 3, 4, 5]);
  const mine = join(folder, 'mine.txt');
  writeFileSync(mine, 'my notes\n');
  await assert.rejects(
    async () => traceLog(mine, model, { resumed: true }).init?.({ folder, settings: {}, step: 4 }),
    /mine\.txt exists already/,
  );
  assert.equal(readFileSync(mine, 'utf8'), 'my notes\n');
});

test('a log with a path of its own is overwritten or continued after a step; other files stay', async (t) => {
  const folder = await temporaryFolder(t),
    path = join(folder, 'events.jsonl'),
    at = (step: number): LogEvent => ({ event: 'eval', step, val_loss: 1, ms: 1, time: 0 });
  const open = async (step: number): Promise<Logger> => {
    const log = jsonLines(folder);
    await log.init?.({ folder: '.', settings: {}, step });
    return log;
  };
  const steps = (): unknown[] =>
    readFileSync(path, 'utf8')
      .trim()
      .split('\n')
      .map((line) => (JSON.parse(line) as { step: number }).step);
  const first = await open(0);
  for (const n of [1, 2, 3]) first.log(at(n));
  (await open(2)).log(at(3));
  assert.deepEqual(steps(), [1, 2, 3]);
  (await open(0)).log(at(1));
  assert.deepEqual(steps(), [1]);
  writeFileSync(path, 'my notes\n');
  await assert.rejects(open(0), /events\.jsonl is no log of events/);
  assert.equal(readFileSync(path, 'utf8'), 'my notes\n');
});

test('another parser reads any tags and numbers as they were written', async (t) => {
  const file = join(await temporaryFolder(t), 'events.out.tfevents.1');
  const tag = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 40 }),
    number = fc.float();
  const summaries = fc.array(
    fc.tuple(fc.integer({ min: 1, max: 2 ** 31 }), fc.dictionary(tag, number, { maxKeys: 6 })),
    { maxLength: 8 },
  );
  fc.assert(
    fc.property(summaries, (steps) => {
      writeFileSync(file, Buffer.concat(steps.map(([step, scalars]) => summaryRecord(1, step, { scalars }))));
      const read = readEvents(file).map(({ step, summary }) => [
        step,
        Object.fromEntries((summary?.value ?? []).map((v) => [v.tag, v.simple_value ?? 0])),
      ]);
      assert.deepEqual(
        read,
        steps.map(([step, scalars]) => [step, { ...scalars }]),
      );
    }),
    { seed: 1, numRuns: 100 },
  );
});
