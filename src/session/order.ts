// The order of a session's calls, awaited or not: each has the session to itself, in the order in which they came. One
// that only reads may have several runs (an evaluation): others that only read may come between them, what changes
// values waits for its end.
import { asError } from '../recompile/pending.ts';
import { closedError } from './step.ts';

interface Call {
  readonly writes: boolean;
  readonly start: () => void;
}

export interface CallOptions {
  /** It changes values or settings. */
  readonly writes?: boolean;
  /** It is a run of a reading that is under way, and goes first. */
  readonly within?: boolean;
}

export class Order {
  readonly #waiting: Call[] = [];
  #running = false;
  /** Calls are being started: one that is done on return does not start others itself. */
  #starting = false;
  /** Readings of several runs that are under way. */
  #readings = 0;
  #closed = false;

  /**
   * Runs `work` when its turn has come: before this returns where nothing is under way. Rejects with what it throws.
   * What waits starts before whoever waits for `work` goes on.
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

  /** The same for a change that takes no time: it is done on return, and throws, where nothing is under way. */
  change(work: () => void): Promise<void> {
    if (this.#closed) throw closedError();
    if (!this.idle) return this.run(work, { writes: true });
    work();
    return Promise.resolve();
  }

  /** A reading of several runs, each a call `within`. */
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

  /** The last call: what comes after it is refused. */
  close(work: () => Promise<void>): Promise<void> {
    const closing = this.run(work, { writes: true });
    this.#closed = true;
    return closing;
  }

  /** Nothing is under way. */
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
