// The threads of the WebAssembly device: workers that wait in shared memory for work, and return to their event loop when there is
// mail (new kernels). Where memory cannot be shared, the calling thread does the work itself.
import type { KernelShape as Shape } from '../../emit/wasm/kernel.ts';
import type { Layout, Runner } from './runner.ts';
import { makeRunner } from './runner.ts';

/** Words of the block that main thread and workers share. */
const CONTROL = { turn: 0, mail: 1, table: 2, counters: 3, from: 4, to: 5, times: 6, left: 7 } as const;

type Mail = { readonly core: WebAssembly.Module } | { readonly module: WebAssembly.Module; readonly shapes: readonly Shape[] } | { readonly serve: number };
type Answer = 'ready' | { readonly done: number } | { readonly failed: string };

export interface Pool {
  /** Gives every thread modules; not during a run. */
  send(mail: Mail): Promise<void>;
  run(table: number, counters: number, from: number, to: number, times: number): Promise<void>;
  close(): void;
}

/** The calling thread alone. */
export class InlinePool implements Pool {
  readonly #runner: Runner;
  constructor(memory: WebAssembly.Memory, scratch: number, layout: Layout) { this.#runner = makeRunner(memory, scratch, 0, 1, layout); }

  send(mail: Mail): Promise<void> {
    if ('core' in mail) this.#runner.core(mail.core);
    else if ('module' in mail) this.#runner.add(mail.module, mail.shapes);
    return Promise.resolve();
  }

  run(table: number, counters: number, from: number, to: number, times: number): Promise<void> {
    return new Promise((resolve) => { this.#runner.run(table, counters, from, to, times); resolve(); });
  }

  close(): void { /* nothing is held */ }
}

interface Port { post(mail: unknown): void; hear(f: (answer: Answer) => void, fail: (error: Error) => void): void; hold(on: boolean): void; end(): void }

export class WorkerPool implements Pool {
  readonly #ports: readonly Port[];
  readonly #words: Int32Array;
  readonly #control: number;
  #waiting: { answers: number; resolve(): void; reject(error: Error): void } | null = null;
  #serving = false;
  #dead: Error | null = null;

  constructor(memory: WebAssembly.Memory, control: number, scratches: readonly number[], layout: Layout) {
    this.#words = new Int32Array(memory.buffer);
    this.#control = control >>> 2;
    this.#ports = scratches.map((scratch, thread) => startWorker({ memory, control, scratch, thread, threads: scratches.length, layout }));
    for (const port of this.#ports) port.hear((a) => { this.#hear(a); }, (error) => { this.#dead ??= error; this.#waiting?.reject(this.#dead); this.#waiting = null; });
  }

  #hear(answer: Answer): void {
    const w = this.#waiting;
    if (!w) return;
    if (typeof answer === 'object' && 'failed' in answer) { this.#dead = new Error(`the wasm device failed: ${answer.failed}`); w.reject(this.#dead); this.#waiting = null; return; }
    if (--w.answers > 0) return;
    this.#waiting = null;
    w.resolve();
  }

  #expect(answers: number, start: () => void): Promise<void> {
    if (this.#dead) return Promise.reject(this.#dead);
    this.#ports.forEach((p) => { p.hold(true); });
    return new Promise<void>((resolve, reject) => {
      this.#waiting = { answers, resolve, reject };
      start();
    }).finally(() => { this.#ports.forEach((p) => { p.hold(false); }); });
  }

  #turn(): void {
    Atomics.add(this.#words, this.#control + CONTROL.turn, 1);
    Atomics.notify(this.#words, this.#control + CONTROL.turn);
  }

  async send(mail: Mail): Promise<void> {
    if (this.#serving) {
      Atomics.store(this.#words, this.#control + CONTROL.mail, 1);
      this.#turn();
      this.#serving = false;
    }
    await this.#expect(this.#ports.length, () => { this.#ports.forEach((p) => { p.post(mail); }); });
  }

  async run(table: number, counters: number, from: number, to: number, times: number): Promise<void> {
    if (from >= to) return;
    const w = this.#words, at = this.#control;
    if (!this.#serving) {
      Atomics.store(w, at + CONTROL.mail, 0);
      const serve = Atomics.load(w, at + CONTROL.turn);
      this.#ports.forEach((p) => { p.post({ serve } satisfies Mail); });
      this.#serving = true;
    }
    await this.#expect(1, () => {
      for (const [name, value] of Object.entries({ table, counters, from, to, times })) Atomics.store(w, at + CONTROL[name as keyof typeof CONTROL], value);
      this.#turn();
    });
  }

  close(): void {
    this.#dead ??= new Error('the device is closed');
    this.#ports.forEach((p) => { p.end(); });
  }
}

interface Start { readonly memory: WebAssembly.Memory; readonly control: number; readonly scratch: number; readonly thread: number; readonly threads: number; readonly layout: Layout }

/** A worker's program. It refers to nothing outside itself but makeRunner, whose text stands before it. */
function workerProgram(make: typeof makeRunner, listen: (f: (mail: Mail | Start) => void) => void, post: (answer: Answer) => void): void {
  let runner: Runner | null = null, words = new Int32Array(0), at = 0, threads = 1;
  const serve = (since: number): void => {
    for (let turn = since; ;) {
      Atomics.wait(words, at, turn);
      const now = Atomics.load(words, at);
      if (now === turn) continue;
      turn = now;
      if (Atomics.load(words, at + 1) !== 0) return;
      const p = (n: number): number => Atomics.load(words, at + n) >>> 0;
      try {
        if (runner?.run(p(2), p(3), p(4), p(5), p(6)) !== true) return; // the thread that failed says why
        // The last to leave says so: until then the others still look at the run's counters.
        if (Atomics.add(words, at + 7, 1) + 1 === threads) {
          Atomics.store(words, at + 7, 0);
          post({ done: turn });
        }
      } catch (error) {
        post({ failed: error instanceof Error ? `${error.name}: ${error.message}` : String(error) });
        return;
      }
    }
  };
  listen((mail) => {
    if ('memory' in mail) {
      words = new Int32Array(mail.memory.buffer);
      at = mail.control >>> 2;
      threads = mail.threads;
      runner = make(mail.memory, mail.scratch, mail.thread, mail.threads, mail.layout);
      return;
    }
    if ('serve' in mail) { serve(mail.serve); return; }
    try {
      if ('core' in mail) runner?.core(mail.core); else runner?.add(mail.module, mail.shapes);
      post('ready');
    } catch (error) {
      post({ failed: error instanceof Error ? `${error.name}: ${error.message}` : String(error) });
    }
  });
}

const TEXT = `const __name = (f) => f; (${workerProgram.toString()})(${makeRunner.toString()}, listen, post);`;

interface NodeWorker { postMessage(m: unknown): void; on(event: string, f: (x: never) => void): void; ref(): void; unref(): void; terminate(): Promise<number> }
interface NodeProcess { getBuiltinModule?(name: string): { Worker: new (text: string, options: object) => NodeWorker } | undefined; versions?: { node?: string } }

function startWorker(start: Start): Port {
  const node = (globalThis as { process?: NodeProcess }).process, threads = node?.versions?.node ? node.getBuiltinModule?.('node:worker_threads') : undefined;
  const failed = (error: unknown): Error => new Error(`a thread of the wasm device ended: ${error instanceof Error ? error.message : String(error)}`);
  if (threads) {
    const head = "const { parentPort } = process.getBuiltinModule('node:worker_threads'); const listen = (f) => { parentPort.on('message', f); }, post = (m) => { parentPort.postMessage(m); };\n";
    const worker = new threads.Worker(head + TEXT, { eval: true, execArgv: [], name: `dynamoe wasm ${start.thread}` });
    worker.postMessage(start);
    return { post: (m) => { worker.postMessage(m); }, hold: (on) => { if (on) worker.ref(); else worker.unref(); }, end: () => { void worker.terminate(); },
      hear: (f, fail) => { worker.on('message', f); worker.on('error', (e: unknown) => { fail(failed(e)); }); worker.on('exit', (code: number) => { fail(failed(`exit code ${code}`)); }); } };
  }
  const head = 'const listen = (f) => { self.onmessage = (e) => { f(e.data); }; }, post = (m) => { self.postMessage(m); };\n';
  const url = URL.createObjectURL(new Blob([head + TEXT], { type: 'text/javascript' }));
  const worker = new Worker(url);
  worker.postMessage(start);
  return { post: (m) => { worker.postMessage(m); }, hold: () => undefined, end: () => { worker.terminate(); URL.revokeObjectURL(url); },
    hear: (f, fail) => { worker.onmessage = (e: MessageEvent<Answer>) => { f(e.data); }; worker.onerror = (e) => { fail(failed(e.message)); }; } };
}
