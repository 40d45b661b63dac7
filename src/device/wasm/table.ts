// A table of steps in the memory of the WebAssembly device.
import type { Bound, BoundKernel, StepTimes } from '../device.ts';
import type { Block, Heap } from './heap.ts';
import type { Layout } from './runner.ts';

/** Runs steps from..to of a table; the three numbers before are addresses (runner.ts). */
export type Run = (table: number, counters: Block, from: number, to: number, times: number) => Promise<void>;

export class WasmTable implements Bound {
  readonly steps: number;
  readonly table: Block;
  readonly #counters: Block;
  readonly #heap: Heap;
  readonly #run: Run;

  /** number: the number of a kernel. */
  constructor(
    heap: Heap,
    { stepWords }: Layout,
    run: Run,
    steps: readonly { readonly number: number; readonly step: BoundKernel }[],
  ) {
    const head = steps.length * stepWords,
      words = new Int32Array(steps.reduce((n, { step: s }) => n + s.buffers.length + s.ints.length, head));
    this.steps = steps.length;
    this.#heap = heap;
    this.#run = run;
    this.table = heap.alloc(words.byteLength);
    try {
      this.#counters = heap.alloc(8 + 8 * steps.length);
    } catch (error) {
      heap.free(this.table);
      throw error;
    }
    let tail = head;
    steps.forEach(({ number, step: s }, i) => {
      const unless = s.unless ? heap.addressOf(s.unless) : 0;
      words.set([number, this.table.address + 4 * tail, unless, s.barrier ? 1 : 0], i * stepWords);
      for (const b of s.buffers) words[tail++] = heap.addressOf(b);
      for (const n of s.ints) words[tail++] = n;
    });
    heap.write({ memory: this.table, offset: 0 }, words);
  }

  run(from = 0, to = this.steps): Promise<void> {
    return this.#run(this.table.address, this.#counters, from, to, 0);
  }

  async profile(): Promise<StepTimes> {
    const { steps } = this,
      memory = this.#heap.alloc(16 * steps),
      raw = new Float64Array(2 * steps);
    try {
      await this.#run(this.table.address, this.#counters, 0, steps, memory.address);
      this.#heap.read({ memory, offset: 0 }, raw);
    } finally {
      this.#heap.free(memory);
    }
    const pick = (k: number): Float64Array => Float64Array.from({ length: steps }, (_, i) => raw[2 * i + k]);
    return { ns: pick(0), tasks: pick(1) };
  }

  dispose(): void {
    this.#heap.free(this.table);
    this.#heap.free(this.#counters);
  }
}
