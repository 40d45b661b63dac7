// Reads a run folder in the ways its readers do: the log, the dashboard's page and metrics, TensorBoard's files,
// checkpoints. In: a folder. Out: losses by step, values of tensors. If a reader fails, the promise is broken.
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import protobuf from 'protobufjs';
import { Follower } from '../../src/dash/follow.ts';
import { Metrics } from '../../src/dash/metrics.ts';
import { parsed } from '../../src/dash/page/parse.ts';
import { Run } from '../../src/dash/page/run.ts';
import { codeOf } from '../../src/io/fault.ts';
import { loadCheckpoint } from '../../src/io/checkpoint-file.ts';
import { crc32c } from '../../src/io/tfevents.ts';
import type { LogEvent } from '../../src/train/events.ts';
import { assertPromise } from '../part.ts';

const READABLE = 'a run folder is readable at any moment';

/** The events of the log: complete lines of JSON. torn: the last line may be incomplete. */
export async function eventsIn(folder: string, torn: boolean): Promise<LogEvent[]> {
  const text = await readFile(join(folder, 'events.jsonl'), 'utf8').catch((error: unknown) => {
    if (codeOf(error) === 'ENOENT') return '';
    throw error;
  });
  const lines = text.split('\n'),
    last = lines.pop() ?? '';
  assertPromise(
    READABLE,
    torn || last === '',
    () => 'events.jsonl ends without a line break after the run has ended by itself',
  );
  return lines.map((line, i) => {
    try {
      return JSON.parse(line) as LogEvent;
    } catch {
      assertPromise(READABLE, false, () => `line ${i + 1} of ${lines.length} in events.jsonl is not JSON`);
    }
  });
}

/** Reads the folder with the dashboard: its page and its metrics. */
export async function readAsDash(folder: string): Promise<void> {
  const path = join(folder, 'events.jsonl'),
    run = new Run('run'),
    follower = new Follower(path);
  for (let got = await follower.read(); got; got = await follower.read())
    for (const event of got.lines.map(parsed)) if (event) run.add(event);
  await new Metrics([{ name: 'run', path }]).text();
}

/** The losses of a run by step. Each step must occur once, in order, from 1 on. */
export function lossesOf(events: readonly LogEvent[]): number[] {
  const losses: number[] = [];
  for (const e of events) {
    if (e.event !== 'step') continue;
    assertPromise(
      'the log of a run has each step once',
      e.step === losses.length + 1,
      () => `step ${e.step} comes after step ${losses.length}`,
    );
    losses.push(e.loss);
  }
  return losses;
}

/** Hashes of the tensors of a checkpoint by name. */
export async function tensorsOf(path: string): Promise<Record<string, string>> {
  const { file } = await loadCheckpoint(path),
    hashes: Record<string, string> = {};
  try {
    for (const name of file.tensors.keys()) {
      const { data, dtype, shape } = await file.read(name);
      hashes[name] = createHash('sha256')
        .update(`${dtype} ${shape.join()} `)
        .update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
        .digest('hex');
    }
  } finally {
    await file.close();
  }
  return hashes;
}

/** Checkpoints of a run folder, the newest first. */
export const checkpointsOf = async (folder: string): Promise<string[]> =>
  (await readdir(folder))
    .filter((name) => /^step-\d+\.safetensors$/.test(name))
    .sort()
    .reverse()
    .map((name) => join(folder, name));

// The messages of TensorBoard's event files, from tensorflow/core/util/event.proto and framework/summary.proto.
const Message = protobuf
  .parse(
    `syntax = "proto3";
    package tensorflow;
    message Event {
      double wall_time = 1;
      int64 step = 2;
      oneof what { string file_version = 3; Summary summary = 5; SessionLog session_log = 7; }
    }
    message SessionLog {
      enum SessionStatus { STATUS_UNSPECIFIED = 0; START = 1; STOP = 2; CHECKPOINT = 3; }
      SessionStatus status = 1;
    }
    message Summary {
      message Value { string tag = 1; oneof value { float simple_value = 2; } }
      repeated Value value = 1;
    }`,
    { keepCase: true },
  )
  .root.lookupType('tensorflow.Event');
interface TensorBoardEvent {
  readonly step?: number;
  readonly session_log?: { readonly status: string };
  readonly summary?: { readonly value: readonly { readonly tag: string; readonly simple_value?: number }[] };
}

/**
 * Training losses by step, read like TensorBoard: files in the order of their names; a session that starts at a step
 * removes earlier values of that step and of later ones. A kill may leave an incomplete record at the end of a file.
 */
export async function tensorBoardLosses(folder: string): Promise<Map<number, number>> {
  const losses = new Map<number, number>(),
    place = join(folder, 'tensorboard');
  for (const name of (await readdir(place)).filter((n) => n.startsWith('events.out.tfevents.')).sort()) {
    for (const e of records(await readFile(join(place, name)))) {
      const step = e.step ?? 0;
      if (e.session_log?.status === 'START')
        for (const later of [...losses.keys()].filter((s) => s >= step)) losses.delete(later);
      for (const { tag, simple_value: x } of e.summary?.value ?? []) if (tag === 'loss/train') losses.set(step, x ?? 0);
    }
  }
  return losses;
}

function records(file: Buffer): TensorBoardEvent[] {
  const events: TensorBoardEvent[] = [],
    unmask = (m: number): number => {
      const r = (m - 0xa282ead8) >>> 0;
      return ((r >>> 17) | (r << 15)) >>> 0;
    };
  for (let at = 0; at + 12 <= file.length;) {
    const length = Number(file.readBigUInt64LE(at)),
      end = at + 16 + length;
    if (end > file.length) break;
    const data = file.subarray(at + 12, at + 12 + length);
    assertPromise(
      READABLE,
      unmask(file.readUInt32LE(at + 8)) === crc32c(file.subarray(at, at + 8)) &&
        unmask(file.readUInt32LE(end - 4)) === crc32c(data),
      () => `a checksum in a TensorBoard file is wrong at byte ${at} of ${file.length}`,
    );
    events.push(Message.toObject(Message.decode(data), { longs: Number, enums: String }));
    at = end;
  }
  return events;
}
