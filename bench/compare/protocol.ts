// What a contestant's process is told and what it answers: one JSON object a line on stdin and stdout. Its stderr is
// kept for errors.
import { spawn, type ChildProcess } from 'node:child_process';
import { createInterface } from 'node:readline';

/** A work as every contestant understands it. */
export interface Work {
  readonly kind: 'layer' | 'classifier' | 'lm';
  readonly pass: 'train' | 'forward';
  /** Of a layer. */
  readonly tokens?: number;
  readonly dModel?: number;
  readonly dFf?: number;
  readonly experts?: number;
  readonly topK?: number;
  /** Of our own layer: see `dynamoe bench layer --skew`. */
  readonly skew?: number;
  /** Of a classifier and a language model: samples. */
  readonly batch?: number;
}

export type Request =
  | { readonly do: 'open'; readonly style: string; readonly work: Work; readonly threads: number }
  | { readonly do: 'run'; readonly steps: number }
  | { readonly do: 'peak' };

export interface Answer {
  /** Not there on this machine: says what is missing. */
  readonly missing?: string;
  readonly error?: string;
  /** Of each step. */
  readonly ms?: readonly number[];
  /** Peak of resident bytes above what there was when libraries were loaded and no parameter existed. */
  readonly rss?: number;
  /** Version of the library. */
  readonly version?: string;
  readonly loss?: number;
  readonly gflops?: number | null;
}

export interface Command {
  readonly file: string;
  readonly args: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

/** A contestant's process. One question at a time. */
export class Peer {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  #stderr = '';
  #failed: Error | null = null;

  constructor({ file, args, env }: Command) {
    const child = spawn(file, args, { stdio: ['pipe', 'pipe', 'pipe'], env: { ...process.env, ...env } });
    child.on('error', (error) => {
      this.#failed = error;
    });
    child.stdin.on('error', (error) => {
      this.#failed ??= error;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-4000);
    });
    this.#child = child;
    this.#lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  }

  async ask(request: Request): Promise<Answer> {
    this.#child.stdin?.write(`${JSON.stringify(request)}\n`);
    // Libraries print to stdout too: a line that is no JSON is theirs.
    for (;;) {
      const line = await this.#lines.next();
      if (line.done)
        return {
          error:
            `its process ended: ` +
            `${this.#failed?.message ?? (this.#stderr.trim().split('\n').at(-1) || 'it said nothing')}`,
        };
      if (line.value.startsWith('{')) return JSON.parse(line.value) as Answer;
    }
  }

  close(): void {
    this.#child.stdin?.end();
    this.#child.kill();
  }
}

/** Steps one after the other: milliseconds of each, and what the last one gave (its loss). */
export async function timed(step: () => Promise<number>, steps: number): Promise<{ ms: number[]; loss: number }> {
  const ms: number[] = [];
  let loss = NaN;
  for (let i = 0; i < steps; i++) {
    const begin = performance.now();
    loss = await step();
    ms.push(performance.now() - begin);
  }
  return { ms, loss };
}

/** Serves the other end in Node: reads requests, writes answers, one after the other. */
export async function serve(answer: (request: Request) => Promise<Answer>): Promise<void> {
  for await (const line of createInterface({ input: process.stdin })) {
    let found: Answer;
    try {
      found = await answer(JSON.parse(line) as Request);
    } catch (error) {
      found = { error: error instanceof Error ? error.message : String(error) };
    }
    process.stdout.write(`${JSON.stringify(found)}\n`);
  }
}
