// The threads of the WebAssembly device: workers that wait in shared memory for runs, and return to their event loop
// when a message (mail) with new kernels arrives. Where memory cannot be shared, the calling thread does the work.
import { UserError } from '../../base/errors.ts';
import { makeMath64 } from '../../base/math64.ts';
import type { KernelShape as Shape } from '../../emit/wasm/kernel.ts';
import type { Layout, Runner } from './runner.ts';
import { makeRunner } from './runner.ts';

/** Word offsets in the control block that the main thread and the workers share. */
const CONTROL = { turn: 0, mail: 1, table: 2, counters: 3, from: 4, to: 5, times: 6, left: 7 } as const;

export type Mail =
  { readonly core: WebAssembly.Module } | { readonly module: WebAssembly.Module; readonly shapes: readonly Shape[] };
type Letter = { readonly number: number; readonly mail: Mail } | { readonly serve: number };
/** done: the number of the letter that was handled, or 0 for a run. */
type Answer = { readonly done: number } | { readonly failed: string };

export interface Pool {
  /** Sends mail to every thread. Must not be called during a run; need not wait for earlier mail. */
  send(mail: Mail): Promise<void>;
  /** Runs steps from..to of a table. Must not be called before all mail that was sent after a run has arrived. */
  run(table: number, counters: number, from: number, to: number, times: number): Promise<void>;
  /** Keeps the process alive until `work` settles. */
  hold<T>(work: Promise<T>): Promise<T>;
  close(): void;
}

/** A pool without workers: the calling thread runs everything. */
export class InlinePool implements Pool {
  readonly #runner: Runner;
  constructor(memory: WebAssembly.Memory, scratch: number, layout: Layout) {
    this.#runner = makeRunner(makeMath64, memory, scratch, 0, 1, layout);
  }

  send(mail: Mail): Promise<void> {
    if ('core' in mail) this.#runner.core(mail.core);
    else this.#runner.add(mail.module, mail.shapes);
    return Promise.resolve();
  }

  run(table: number, counters: number, from: number, to: number, times: number): Promise<void> {
    return new Promise((resolve) => {
      this.#runner.run(table, counters, from, to, times);
      resolve();
    });
  }

  hold<T>(work: Promise<T>): Promise<T> {
    return work;
  }

  close(): void {
    /* nothing is held */
  }
}

interface Port {
  post(letter: Letter): void;
  hear(f: (answer: Answer) => void, fail: (error: Error) => void): void;
  hold(on: boolean): void;
  end(): void;
}
interface Waiting {
  answers: number;
  resolve(): void;
  reject(error: Error): void;
}

export class WorkerPool implements Pool {
  readonly #ports: readonly Port[];
  readonly #words: Int32Array;
  readonly #control: number;
  /** By letter number (0: a run), the promise that waits for answers. */
  readonly #waiting = new Map<number, Waiting>();
  #letters = 0;
  #held = 0;
  #serving = false;
  #dead: Error | null = null;

  constructor(memory: WebAssembly.Memory, control: number, scratches: readonly number[], layout: Layout) {
    this.#words = new Int32Array(memory.buffer);
    this.#control = control >>> 2;
    const ports: Port[] = [];
    try {
      for (const [thread, scratch] of scratches.entries())
        ports.push(startWorker({ memory, control, scratch, thread, threads: scratches.length, layout }));
    } catch (error) {
      for (const port of ports) port.end();
      const why = error instanceof Error ? error.message : String(error);
      throw new UserError(
        `device wasm: ${scratches.length} ${scratches.length === 1 ? 'thread' : 'threads'} could not be started: ` +
          `${why}`,
        'ask for fewer threads (--threads), or raise the limits on processes and memory',
        error,
      );
    }
    this.#ports = ports;
    for (const port of this.#ports)
      port.hear(
        (a) => {
          this.#hear(a);
        },
        (error) => {
          this.#fail(error);
        },
      );
  }

  #fail(error: Error): void {
    this.#dead ??= error;
    for (const w of this.#waiting.values()) w.reject(this.#dead);
    this.#waiting.clear();
  }

  #hear(answer: Answer): void {
    if ('failed' in answer) {
      this.#fail(new Error(`the wasm device failed: ${answer.failed}`));
      return;
    }
    const w = this.#waiting.get(answer.done);
    if (!w || --w.answers > 0) return;
    this.#waiting.delete(answer.done);
    w.resolve();
  }

  #expect(letter: number, answers: number, start: () => void): Promise<void> {
    if (this.#dead) return Promise.reject(this.#dead);
    return this.hold(
      new Promise<void>((resolve, reject) => {
        this.#waiting.set(letter, { answers, resolve, reject });
        start();
      }),
    );
  }

  hold<T>(work: Promise<T>): Promise<T> {
    if (this.#held++ === 0)
      this.#ports.forEach((p) => {
        p.hold(true);
      });
    return work.finally(() => {
      if (--this.#held === 0)
        this.#ports.forEach((p) => {
          p.hold(false);
        });
    });
  }

  #turn(): void {
    Atomics.add(this.#words, this.#control + CONTROL.turn, 1);
    Atomics.notify(this.#words, this.#control + CONTROL.turn);
  }

  send(mail: Mail): Promise<void> {
    if (this.#serving) {
      Atomics.store(this.#words, this.#control + CONTROL.mail, 1);
      this.#turn();
      this.#serving = false;
    }
    const number = ++this.#letters;
    return this.#expect(number, this.#ports.length, () => {
      this.#ports.forEach((p) => {
        p.post({ number, mail });
      });
    });
  }

  async run(table: number, counters: number, from: number, to: number, times: number): Promise<void> {
    if (from >= to) return;
    const w = this.#words,
      at = this.#control;
    if (!this.#serving) {
      Atomics.store(w, at + CONTROL.mail, 0);
      const serve = Atomics.load(w, at + CONTROL.turn);
      this.#ports.forEach((p) => {
        p.post({ serve });
      });
      this.#serving = true;
    }
    await this.#expect(0, 1, () => {
      for (const [name, value] of Object.entries({ table, counters, from, to, times }))
        Atomics.store(w, at + CONTROL[name as keyof typeof CONTROL], value);
      this.#turn();
    });
  }

  close(): void {
    this.#dead ??= new Error('the device is closed');
    this.#ports.forEach((p) => {
      p.end();
    });
  }
}

interface Start {
  readonly memory: WebAssembly.Memory;
  readonly control: number;
  readonly scratch: number;
  readonly thread: number;
  readonly threads: number;
  readonly layout: Layout;
}

/**
 * The program of a worker, which is started from its text. So it must not refer to anything outside itself; it gets
 * makeRunner and makeMath64 as arguments.
 */
function workerProgram(
  make: typeof makeRunner,
  math: typeof makeMath64,
  listen: (f: (letter: Letter | Start) => void) => void,
  post: (answer: Answer) => void,
): void {
  let runner: Runner | null = null,
    words = new Int32Array(0),
    at = 0,
    threads = 1;
  const serve = (since: number): void => {
    for (let turn = since; ;) {
      Atomics.wait(words, at, turn);
      const now = Atomics.load(words, at);
      if (now === turn) continue;
      turn = now;
      if (Atomics.load(words, at + 1) !== 0) return;
      const p = (n: number): number => Atomics.load(words, at + n) >>> 0;
      try {
        if (runner?.run(p(2), p(3), p(4), p(5), p(6)) !== true) return; // another thread failed and reports why
        // Only the last thread to finish reports the end of the run: the other threads may still read the run's
        // counters.
        if (Atomics.add(words, at + 7, 1) + 1 === threads) {
          Atomics.store(words, at + 7, 0);
          post({ done: 0 });
        }
      } catch (error) {
        post({ failed: error instanceof Error ? `${error.name}: ${error.message}` : String(error) });
        return;
      }
    }
  };
  listen((letter) => {
    if ('memory' in letter) {
      words = new Int32Array(letter.memory.buffer);
      at = letter.control >>> 2;
      threads = letter.threads;
      runner = make(math, letter.memory, letter.scratch, letter.thread, letter.threads, letter.layout);
      return;
    }
    if ('serve' in letter) {
      serve(letter.serve);
      return;
    }
    try {
      const { mail } = letter;
      if ('core' in mail) runner?.core(mail.core);
      else runner?.add(mail.module, mail.shapes);
      post({ done: letter.number });
    } catch (error) {
      post({ failed: error instanceof Error ? `${error.name}: ${error.message}` : String(error) });
    }
  });
}

const TEXT =
  `const __name = (f) => f; (${workerProgram.toString()})(${makeRunner.toString()}, ${makeMath64.toString()}, ` +
  'listen, post);';

interface NodeWorker {
  postMessage(m: unknown): void;
  on(event: string, f: (x: never) => void): void;
  ref(): void;
  unref(): void;
  terminate(): Promise<number>;
}
interface NodeProcess {
  getBuiltinModule?(name: string): { Worker: new (text: string, options: object) => NodeWorker } | undefined;
  versions?: { node?: string };
}

function startWorker(start: Start): Port {
  const node = (globalThis as { process?: NodeProcess }).process,
    threads = node?.versions?.node ? node.getBuiltinModule?.('node:worker_threads') : undefined;
  const failed = (error: unknown): Error =>
    new Error(`a thread of the wasm device ended: ${error instanceof Error ? error.message : String(error)}`);
  if (threads) {
    const head =
      "const { parentPort } = process.getBuiltinModule('node:worker_threads'); const listen = (f) => { " +
      "parentPort.on('message', f); }, post = (m) => { parentPort.postMessage(m); };\n";
    const worker = new threads.Worker(head + TEXT, { eval: true, execArgv: [], name: `dynamoe wasm ${start.thread}` });
    worker.postMessage(start);
    return {
      post: (m) => {
        worker.postMessage(m);
      },
      hold: (on) => {
        if (on) worker.ref();
        else worker.unref();
      },
      end: () => {
        void worker.terminate();
      },
      hear: (f, fail) => {
        worker.on('message', f);
        worker.on('error', (e: unknown) => {
          fail(failed(e));
        });
        worker.on('exit', (code: number) => {
          fail(failed(`exit code ${code}`));
        });
      },
    };
  }
  const head =
    'const listen = (f) => { self.onmessage = (e) => { f(e.data); }; }, post = (m) => { self.postMessage(m); };\n';
  const url = URL.createObjectURL(new Blob([head + TEXT], { type: 'text/javascript' }));
  const worker = new Worker(url);
  worker.postMessage(start);
  return {
    post: (m) => {
      worker.postMessage(m);
    },
    hold: () => undefined,
    end: () => {
      worker.terminate();
      URL.revokeObjectURL(url);
    },
    hear: (f, fail) => {
      worker.onmessage = (e: MessageEvent<Answer>) => {
        f(e.data);
      };
      worker.onerror = (e) => {
        fail(failed(e.message));
      };
    },
  };
}
