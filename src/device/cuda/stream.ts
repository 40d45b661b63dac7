// The stream of a CUDA device: everything that the GPU does for it, in order. It knows what the GPU has done, by events
// that it puts into the stream, and calls those who wait. Waiting never blocks JavaScript, except `synchronise`. All
// calls are made on the thread of JavaScript, with the context made current before.
import { setTimeout as sleep } from 'node:timers/promises';
import { UserError } from '../../base/errors.ts';
import { CudaError, isFatal, RESULT } from './errors.ts';
import { EVENT_DISABLE_TIMING, STREAM_NON_BLOCKING, type Argument, type Cuda, type CudaFunction } from './libcuda.ts';

/**
 * For so long, the GPU is asked at every turn of the event loop, and so long around the time that the last wait took:
 * steps take about as long as the step before. Otherwise it is asked every `PAUSE_MS`.
 */
const EAGER_MS = 2,
  PAUSE_MS = 1;
/** How many runs a message names. */
const NAMED = 3;

/** A place in the stream, and what is done when the GPU has come to it. */
interface Mark {
  readonly event: bigint;
  /** What runs before this place, for messages; null: a copy, or nothing. */
  readonly what: string | null;
  readonly then: (error: Error | null) => void;
}

export class CudaStream {
  readonly cuda: Cuda;
  readonly #context: bigint;
  readonly #stream: bigint;
  readonly #marks: Mark[] = [];
  readonly #events: bigint[] = [];
  #polling = false;
  /** How long the last wait took. */
  #waitedMs = 0;
  #failed: Error | null = null;
  #closed = false;

  /** The context must be current. */
  constructor(cuda: Cuda, context: bigint) {
    this.cuda = cuda;
    this.#context = context;
    this.#stream = cuda.make('cuStreamCreate', STREAM_NON_BLOCKING);
  }

  /** Makes the context current. Throws if the device is closed or has failed. */
  enter(): void {
    if (this.#failed) throw this.#failed;
    if (this.#closed) throw new Error('the cuda device is closed');
    this.call('cuCtxSetCurrent', this.#context);
  }

  /** Whether calls still make sense: what gives something back is left out otherwise. */
  get works(): boolean {
    return this.#failed === null && !this.#closed;
  }

  /** Calls a function. An error after which the context is lost ends all work of the device. */
  call(name: CudaFunction, ...args: readonly Argument[]): void {
    const code = this.cuda.result(name, ...args);
    if (code === 0) return;
    const error = this.cuda.error(name, code);
    throw isFatal(code) ? this.#fail(error) : error;
  }

  /** The same for functions whose last argument is the stream. */
  put(name: CudaFunction, ...args: readonly Argument[]): void {
    this.call(name, ...args, this.#stream);
  }

  /** The same for functions that give a handle or an address through their first argument. */
  make(name: CudaFunction, ...args: readonly Argument[]): bigint {
    const cell = new BigUint64Array(1);
    this.call(name, cell, ...args);
    return cell[0];
  }

  /**
   * Does what comes after a run. If that fails, all work ends: the run has changed memory, and who asked for it would
   * take it for one that did not happen.
   */
  surely<T>(work: () => T): T {
    try {
      return work();
    } catch (error) {
      throw error instanceof CudaError ? this.#fail(error) : error;
    }
  }

  /** Puts a kernel into the stream. parameters: the address of the list of its parameters. */
  launch(kernel: bigint, blocks: number, threads: number, parameters: bigint): void {
    this.call('cuLaunchKernel', kernel, blocks, 1, 1, threads, 1, 1, 0, this.#stream, parameters, null);
  }

  /** Calls a function that gives something back. That it fails means nothing: it does where the context is lost. */
  giveBack(name: CudaFunction, ...args: readonly Argument[]): void {
    if (this.cuda.result('cuCtxSetCurrent', this.#context) === 0) this.cuda.result(name, ...args);
  }

  /** Calls `then` when the GPU has done what was put into the stream so far, or cannot. what: a run, for messages. */
  mark(what: string | null, then: Mark['then']): void {
    this.surely(() => {
      const event = this.#events.pop() ?? this.make('cuEventCreate', EVENT_DISABLE_TIMING);
      this.put('cuEventRecord', event);
      this.#marks.push({ event, what, then });
    });
    if (!this.#polling) {
      this.#polling = true;
      void this.#poll();
    }
  }

  /** Resolves when the GPU has done what was put into the stream so far. */
  reached(what: string | null = null): Promise<void> {
    return new Promise((resolve, reject) => {
      this.mark(what, (error) => {
        if (error) reject(error);
        else resolve();
      });
    });
  }

  /** Blocks until the GPU has done everything. */
  synchronise(): void {
    const code = this.cuda.result('cuStreamSynchronize', this.#stream);
    if (code !== 0) throw this.#fail(this.cuda.error('cuStreamSynchronize', code));
    for (const mark of this.#marks.splice(0)) this.#settle(mark, null);
  }

  async #poll(): Promise<void> {
    const begin = performance.now(),
      elapsed = (): number => performance.now() - begin;
    while (this.#marks.length > 0) {
      if (elapsed() < EAGER_MS || Math.abs(elapsed() - this.#waitedMs) < EAGER_MS)
        await new Promise((resolve) => {
          setImmediate(resolve);
        });
      else await sleep(PAUSE_MS);
      this.#look();
    }
    this.#waitedMs = elapsed();
    this.#polling = false;
  }

  /** Settles the marks to which the GPU has come. */
  #look(): void {
    const { cuda } = this;
    for (let mark = this.#marks.at(0); mark; mark = this.#marks.at(0)) {
      const current = cuda.result('cuCtxSetCurrent', this.#context),
        code = current || cuda.result('cuEventQuery', mark.event);
      if (code === RESULT.notReady) return;
      if (code !== 0) {
        this.#fail(cuda.error(current ? 'cuCtxSetCurrent' : 'cuEventQuery', code));
        return;
      }
      this.#marks.shift();
      this.#settle(mark, null);
    }
  }

  #settle({ event, then }: Mark, error: Error | null): void {
    this.#events.push(event);
    then(error);
  }

  /** Ends all work: what was put into the stream since the last mark that was reached has failed. */
  #fail(error: CudaError): Error {
    if (this.#failed) return this.#failed;
    const marks = this.#marks.splice(0),
      running = marks.flatMap(({ what }) => (what === null ? [] : [what]));
    this.#failed = new UserError(
      `device cuda: the GPU stopped with ${error.message}` +
        (running.length > 0 ? `; it was running ${running.slice(0, NAMED).join(', or ')}` : '') +
        (running.length > NAMED ? `, or ${running.length - NAMED} runs more` : ''),
      'nothing more can be done on this GPU in this process; with DYNAMOE_CUDA_STEPWISE=1 each kernel runs alone, ' +
        'and the message names the one that failed',
      error,
    );
    for (const mark of marks) this.#settle(mark, this.#failed);
    return this.#failed;
  }

  /** From now on nothing can be put into it. Waits until everything is done. */
  async close(): Promise<void> {
    if (this.works) {
      const last = this.#last();
      this.#closed = true;
      await last;
    }
    this.#closed = true;
    // After a failure, something may still be running.
    if (this.#failed) this.giveBack('cuStreamSynchronize', this.#stream);
  }

  /** Gives the stream back. Nothing may be running. */
  destroy(): void {
    for (const event of this.#events) this.giveBack('cuEventDestroy_v2', event);
    this.giveBack('cuStreamDestroy_v2', this.#stream);
  }

  /** Never rejects: who waits for work is told that it failed. */
  async #last(): Promise<void> {
    try {
      this.enter();
      await this.reached();
    } catch {
      // The device has failed, or a call has: there is nothing to wait for.
    }
  }
}
