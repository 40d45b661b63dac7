// The order of a session's calls: one at a time, in the order in which they were made, awaited or not. An evaluation
// is a reading that consists of many runs: calls that only read may run between these, calls that write wait until it
// ends.
import { asError } from '../base/errors.ts';
import type { Lazy } from '../base/lazy.ts';
import { closedError } from './step.ts';

interface Call {
  readonly writes: boolean;
  readonly start: () => void;
}

export interface CallOptions {
  /** Whether the call changes values or settings. */
  readonly writes?: boolean;
  /** Whether the call is a run of a reading in progress (see `read`): it goes to the front of the queue. */
  readonly within?: boolean;
}

export class Order {
  readonly #waiting: Call[] = [];
  #running = false;
  /** Guards `#next` against recursion: a call that completes synchronously calls `#next` again. */
  #starting = false;
  /** Number of readings in progress. */
  #readings = 0;
  #closed = false;

  /**
   * Runs `work` when it is its turn; synchronously if the session is idle. Rejects with what `work` throws. The next
   * waiting call starts before the promise of this one settles.
   */
  run<T>(work: () => T | Promise<T>, { writes = false, within = false }: CallOptions = {}): Promise<T> {
    if (this.#closed && !within) return Promise.reject(closedError());
    return new Promise<T>((resolve, reject) => {
      const over = (settle: () => void): void => {
        this.#running = false;
        this.#next();
        settle();
      };
      const failed = (error: unknown): void => {
        over(() => {
          reject(asError(error));
        });
      };
      const start = (): void => {
        this.#running = true;
        try {
          const made = work();
          if (made instanceof Promise)
            made.then((value) => {
              over(() => {
                resolve(value);
              });
            }, failed);
          else
            over(() => {
              resolve(made);
            });
        } catch (error) {
          failed(error);
        }
      };
      if (within) this.#waiting.unshift({ writes, start });
      else this.#waiting.push({ writes, start });
      this.#next();
    });
  }

  /**
   * The same for synchronous work: if the session is idle, the work is done, or has thrown, when this returns. needs:
   * what the work needs; if that must be loaded first, calls that are made meanwhile wait.
   */
  change(work: () => void, needs: Lazy<unknown> | null = null): Promise<void> {
    if (this.#closed) throw closedError();
    if (needs && !needs.here) return this.run(() => needs.load().then(work), { writes: true });
    if (!this.idle) return this.run(work, { writes: true });
    work();
    return Promise.resolve();
  }

  /** A reading of several runs, each a call of `run` with `within`. */
  async read<T>(work: () => Promise<T>): Promise<T> {
    const { done } = await this.run(() => {
      this.#readings++;
      return {
        done: work().finally(() => {
          this.#readings--;
          this.#next();
        }),
      };
    });
    return done;
  }

  /** The last call: later calls are refused. */
  close(work: () => Promise<void>): Promise<void> {
    const closing = this.run(work, { writes: true });
    this.#closed = true;
    return closing;
  }

  /** Whether no call is running or waiting. */
  get idle(): boolean {
    return !this.#running && this.#readings === 0 && this.#waiting.length === 0;
  }

  #next(): void {
    if (this.#starting) return;
    this.#starting = true;
    while (!this.#running && this.#waiting.length > 0 && !(this.#waiting[0].writes && this.#readings > 0))
      this.#waiting.shift()?.start();
    this.#starting = false;
  }
}
