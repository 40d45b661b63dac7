// Parses a line of a log. In: text; out: the event, or null for anything else: a log may be damaged, or written by a
// later version. A known event has all the fields that the page and the metrics read, so these need not check again.
import type { LogEvent } from '../../train/events.ts';

type Check = (value: unknown) => boolean;

const number: Check = (v) => typeof v === 'number',
  text: Check = (v) => typeof v === 'string',
  list: Check = (v) => Array.isArray(v);
const record =
  (of: Check): Check =>
  (v) =>
    typeof v === 'object' && v !== null && !Array.isArray(v) && Object.values(v).every(of);
const numbers: Check = (v) => Array.isArray(v) && v.every(number);
const maybe =
  (of: Check): Check =>
  (v) =>
    v === undefined || of(v);
const fields =
  (checks: Readonly<Record<string, Check>>): Check =>
  (v) =>
    typeof v === 'object' &&
    v !== null &&
    Object.entries(checks).every(([name, check]) => check((v as Record<string, unknown>)[name]));

const effect = fields({ ms: (v) => v === null || number(v), bytes: number });

/** The fields that are read of each kind of event. */
const KNOWN: Readonly<Record<string, Check>> = {
  start: fields({ device: text, threads: number, parameters: number, steps: number, resumed_from: number }),
  step: fields({
    step: number,
    loss: number,
    aux: record(number),
    ms: number,
    tokens_per_s: number,
    grad_norm: number,
    lr: maybe(number),
    rss: maybe(number),
    load: maybe(record(numbers)),
    ranks: maybe(fields({ ms: numbers, waited_ms: numbers, sent: numbers })),
    layers: maybe(record(record(number))),
  }),
  eval: fields({ step: number, val_loss: (v) => v === null || number(v), metrics: maybe(record(number)) }),
  plan: fields({
    step: number,
    from: number,
    bytes: fields({ arena: number, io: number, constants: number, states: number }),
    layers: record(record(() => true)),
  }),
  recompile: fields({
    step: number,
    rule: text,
    changes: list,
    kept: (v) => typeof v === 'boolean',
    before: effect,
    after: effect,
  }),
  done: fields({ step: number, seconds: number, peak_bytes: fields({ rss: number }) }),
  failed: fields({ error: text }),
};

export function parsed(line: string): LogEvent | null {
  try {
    const value = JSON.parse(line) as { event?: unknown } | null,
      name = value?.event;
    if (typeof name !== 'string') return null;
    return !Object.hasOwn(KNOWN, name) || KNOWN[name](value) ? (value as LogEvent) : null;
  } catch {
    return null;
  }
}
