// A Logger that writes TensorBoard's event files. Losses, rates, times, memory and statistics of layers are scalars;
// the load of a layer is a histogram over its experts. In: a run's events; out: FOLDER/events.out.tfevents.*, a file
// each time that the run is started or resumed.
import { randomBytes } from 'node:crypto';
import { appendFileSync, closeSync, fstatSync, openSync } from 'node:fs';
import { UserError } from '../base/errors.ts';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { fault, shownPath } from '../io/fault.ts';
import { makeFolder } from '../io/make-folder.ts';
import { sessionRecord, summaryRecord, versionRecord, type Histogram, type Summary } from '../io/tfevents.ts';
import type { LogEvent } from './events.ts';
import type { Logger, RunInfo } from './logger.ts';

const FLUSH_BYTES = 1 << 16,
  FLUSH_MS = 2000; // records are written when there are more bytes, or after more time, than this

/** `folder`: default the folder `tensorboard` of the run's. */
export function tensorBoard(folder?: string): Logger {
  return new TensorBoard(folder);
}

class TensorBoard implements Logger {
  readonly #folder: string | undefined;
  #path = '';
  /** The file stays open, because its path may change if the run's folder is moved. */
  #file = -1;
  #records: Buffer[] = [];
  #bytes = 0;
  #flushed = 0;

  constructor(folder: string | undefined) {
    this.#folder = folder;
  }

  async init({ folder, step }: RunInfo): Promise<void> {
    const into = this.#folder ?? join(folder, 'tensorboard'),
      now = Date.now() / 1000;
    await makeFolder(into);
    // TensorBoard reads the files of a folder in the order of their names. Processes in containers may have one host
    // name and one pid.
    this.#path = join(into, `events.out.tfevents.${now.toFixed(3)}.${hostname()}.${randomBytes(4).toString('hex')}`);
    try {
      this.#file = openSync(this.#path, 'ax');
    } catch (error) {
      throw fault('write', this.#path, error);
    }
    this.#keep(versionRecord(now));
    this.#keep(sessionRecord(now, step + 1));
    this.#flush();
  }

  log(event: LogEvent): void {
    const summary = summaryOf(event);
    if (!summary || !('step' in event)) return;
    this.#keep(summaryRecord(event.time, event.step, summary));
    if (this.#bytes > FLUSH_BYTES || performance.now() - this.#flushed > FLUSH_MS) this.#flush();
  }

  flush(): void {
    this.#flush();
  }

  finish(): void {
    try {
      this.#flush();
    } finally {
      closeSync(this.#file);
    }
  }

  #keep(record: Buffer): void {
    this.#records.push(record);
    this.#bytes += record.length;
  }

  #flush(): void {
    // Appending by path would create a new file without the version record that readers need at its beginning.
    if (fstatSync(this.#file).nlink === 0)
      throw new UserError(`${shownPath(this.#path)} is gone`, 'it was removed while the run went on');
    try {
      appendFileSync(this.#file, Buffer.concat(this.#records));
    } catch (error) {
      throw fault('write', this.#path, error);
    }
    this.#records = [];
    this.#bytes = 0;
    this.#flushed = performance.now();
  }
}

/** TensorBoard's form of an event; null: the event is not written. */
function summaryOf(e: LogEvent): Summary | null {
  switch (e.event) {
    case 'step':
      return {
        scalars: {
          'loss/train': e.loss,
          ...under('aux', e.aux),
          'speed/step_ms': e.ms,
          'speed/throughput': e.tokens_per_s,
          'optimiser/grad_norm': e.grad_norm,
          ...(e.lr !== undefined && { 'optimiser/learning_rate': e.lr }),
          ...(e.rss !== undefined && { 'memory/resident': e.rss }),
          ...(Object.assign(
            {},
            ...Object.entries(e.layers ?? {}).map(([layer, told]) => under(`moe/${layer}`, told)),
          ) as Record<string, number>),
        },
        histograms: Object.fromEntries(
          Object.entries(e.load ?? {}).map(([layer, load]) => [`load/${layer}`, overExperts(load)]),
        ),
      };
    case 'eval':
      return {
        scalars: {
          ...(e.val_loss !== null && { 'loss/validation': e.val_loss }),
          ...under('validation', e.metrics ?? {}),
        },
      };
    case 'plan':
      return { scalars: under('memory/planned', e.bytes) };
    case 'recompile':
      return { scalars: { [`recompile/${e.rule}/${e.kept ? 'kept' : 'undone'}`]: e.ratio?.median ?? 1 } };
    default:
      return null;
  }
}

const under = (prefix: string, values: object): Record<string, number> =>
  Object.fromEntries(Object.entries(values as Record<string, number>).map(([name, x]) => [`${prefix}/${name}`, x]));

/** A histogram whose bucket from e - 0.5 to e + 0.5 holds the load of expert e. */
function overExperts(load: readonly number[]): Histogram {
  const sum = (power: number): number => load.reduce((n, rows, e) => n + rows * e ** power, 0);
  // A first bucket that ends at -0.5 and is empty gives expert 0 a left edge.
  return {
    limits: [-0.5, ...load.map((_, e) => e + 0.5)],
    counts: [0, ...load],
    min: 0,
    max: load.length - 1,
    sum: sum(1),
    sumSquares: sum(2),
  };
}
