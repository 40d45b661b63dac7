// Makes a log for tests of the dashboard: the events of a small run with one MoE layer, and a run folder with them.
import { appendFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { LogEvent, TrainEvent } from '../../src/train/events.ts';

export const LAYER = 'blocks.0.moe';
const BEGAN = 1_790_000_000;

const at = (event: TrainEvent, seconds: number): LogEvent => ({ ...event, time: BEGAN + seconds });

export const startAt = (seconds = 0, from = 0, steps = 400): LogEvent =>
  at(
    {
      event: 'start',
      version: '0.1.0',
      config: {},
      device: 'CPU',
      threads: 2,
      parameters: 1234,
      steps,
      resumed_from: from,
      out: 'run',
      unit: 'tokens',
      train_samples: 10,
      validation_samples: 2,
    },
    seconds,
  );

/** Loads of 64 choices, of which expert 0 gets more and more. */
export function stepAt(step: number): LogEvent {
  const first = Math.min(40, 10 + step),
    second = Math.floor((64 - first) / 2),
    load = [first, second, 64 - first - second - 4, 4];
  const spilled = Math.max(0, first - 24);
  return at(
    {
      event: 'step',
      step,
      loss: 5 / Math.sqrt(step),
      aux: { [`${LAYER}/balance`]: 1 },
      tokens_per_s: 1000 + step,
      ms: 10,
      grad_norm: 1,
      lr: 0.001,
      rss: 100e6 + step,
      load: { [LAYER]: load },
      layers: { [LAYER]: { spilled, gate_entropy: 1.2 } },
    },
    step / 100,
  );
}

export const planAt = (step: number, capacity: number): LogEvent =>
  at(
    {
      event: 'plan',
      step,
      from: step,
      bytes: { arena: 1 << 20, io: 1000, constants: 24, states: 4096 },
      layers: { [LAYER]: { topK: 2, capacity, overflow: 'spill', priority: 'position', dispatch: 'padded' } },
      program: {
        names: ['matmul', `${LAYER}.experts`, `matmul in ${LAYER}.experts`, 'add', '', 'add'],
        arena: [
          [0, 1 << 19, 0, 1, 2],
          [1 << 19, 1 << 19, 1, 1, 5],
        ],
        steps: [
          [0, 1, 0, 900],
          [3, 4, 1, 100],
        ],
      },
    },
    step / 100,
  );

export const recompileAt = (step: number, kept: boolean, reason = 'spilled 16 choices'): LogEvent =>
  at(
    {
      event: 'recompile',
      step: step - 2,
      effect: step,
      rule: 'adaptCapacity',
      class: 'N',
      reason,
      changes: [{ path: LAYER, knob: 'capacity', from: 1.5, to: 2.5 }],
      cached: false,
      compile_ms: 80,
      verify_ms: 9,
      stall_ms: 12,
      verified: true,
      kept,
      before: { ms: 12, bytes: 1 << 20 },
      after: { ms: 10, bytes: 1 << 19 },
      ratio: { median: 1.2, low: 1.1, high: 1.3 },
    },
    step / 100,
  );

export const evalAt = (step: number): LogEvent => at({ event: 'eval', step, val_loss: 2.5, ms: 50 }, step / 100);
export const doneAt = (step: number): LogEvent =>
  at(
    {
      event: 'done',
      step,
      val_loss: 2.5,
      checkpoint: 'c',
      seconds: 9,
      peak_bytes: { arena: 1, params: 1, optimiser: 1, rss: 200e6 },
    },
    step / 100,
  );

export const steps = (from: number, to: number): LogEvent[] =>
  Array.from({ length: to - from + 1 }, (_, i) => stepAt(from + i));
export const linesOf = (events: readonly LogEvent[]): string => events.map((e) => `${JSON.stringify(e)}\n`).join('');

/** Creates a run folder with a log; the test writes further events. */
export function runFolder(
  parent: string,
  name: string,
  events: readonly LogEvent[],
): { folder: string; path: string; add(...more: LogEvent[]): void; write(all: readonly LogEvent[]): void } {
  const folder = join(parent, name),
    path = join(folder, 'events.jsonl');
  mkdirSync(folder, { recursive: true });
  const write = (all: readonly LogEvent[]): void => {
    writeFileSync(path, linesOf(all));
  };
  write(events);
  return {
    folder,
    path,
    write,
    add: (...more) => {
      appendFileSync(path, linesOf(more));
    },
  };
}
