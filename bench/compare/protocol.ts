// The protocol between the comparison and a contestant's process: one JSON object per line on stdin and stdout. stderr
// is kept for error messages.
import { spawn, type ChildProcess } from 'node:child_process';
import { createInterface } from 'node:readline';

/** A work, in the form that every contestant understands. */
export interface Work {
  readonly kind: 'layer' | 'classifier' | 'lm';
  readonly pass: 'train' | 'forward';
  /** For a layer. */
  readonly tokens?: number;
  readonly dModel?: number;
  readonly dFf?: number;
  readonly experts?: number;
  readonly topK?: number;
  /** For DynaMoE's layer: see `dynamoe bench layer --skew`. */
  readonly skew?: number;
  /** For a classifier and a language model: the number of samples. */
  readonly batch?: number;
  /** Sizes of the language model, where it is not the default one. */
  readonly lm?: LanguageSizes;
}

export interface LanguageSizes {
  readonly dModel: number;
  readonly layers: number;
  readonly heads: number;
  readonly context: number;
  readonly experts: number;
  /** Width inside an expert. */
  readonly hidden: number;
}

export type Request =
  | { readonly do: 'open'; readonly style: string; readonly work: Work; readonly threads: number }
  | { readonly do: 'run'; readonly steps: number }
  | { readonly do: 'peak' };

export interface Answer {
  /** What is missing on this machine, if the contestant cannot run. */
  readonly missing?: string;
  readonly error?: string;
  /** Milliseconds of each step. */
  readonly ms?: readonly number[];
  /** Peak of resident bytes, minus those used when libraries were loaded and no parameter existed. */
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

/** A contestant's process. It answers one question at a time. */
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
    // Libraries print to stdout, too: a line that is not JSON is from a library.
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

/** Runs steps one after the other. Returns the milliseconds of each, and the result of the last one (its loss). */
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

/** Runs a contestant in Node: reads requests and writes answers, one after the other. */
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
