// A table of steps in the native device's memory, with the addresses of functions and buffers.
import type { Memory } from '../device.ts';
import type { Bound, BoundStep, StepTimes } from '../device.ts';
import type { NativeKernel } from './library.ts';
import type { NativeMemory } from './memory.ts';
import type { NativePool } from './pool.ts';

const STEP_WORDS = 8; // dm_step in driver.h: tasks, run, buffers, integers, skip_if, flags, groups, offsets
const BARRIER = 1n;

export class NativeTable implements Bound {
  readonly #steps: number;
  readonly #memory: NativeMemory;
  readonly #pool: NativePool;
  readonly #table: Memory;
  readonly #address: number;
  /** Duration of the last complete run. */
  #ms = Infinity;

  constructor(
    memory: NativeMemory,
    pool: NativePool,
    steps: readonly { readonly code: NativeKernel; readonly step: BoundStep }[],
  ) {
    const size = steps.reduce((n, { step: s }) => n + STEP_WORDS + s.buffers.length + s.ints.length, 0),
      words = new BigInt64Array(size);
    this.#steps = steps.length;
    this.#memory = memory;
    this.#pool = pool;
    this.#table = memory.alloc(words.byteLength);
    this.#address = memory.addressOf({ memory: this.#table, offset: 0 });
    let tail = steps.length * STEP_WORDS;
    const put = (values: readonly number[]): bigint => {
      const at = this.#address + tail * 8;
      for (const v of values) words[tail++] = BigInt(v);
      return BigInt(at);
    };
    try {
      steps.forEach(({ code: { tasks, run }, step: s }, i) => {
        const chain = s.runsGroupwiseAfterPrevious;
        words.set(
          [
            BigInt(tasks),
            BigInt(run),
            put(s.buffers.map((b) => memory.addressOf(b))),
            put(s.ints),
            BigInt(s.unless ? memory.addressOf(s.unless) : 0),
            s.barrier ? BARRIER : 0n,
            BigInt(chain?.groups ?? 0),
            BigInt(chain ? memory.addressOf(chain.offsets) : 0),
          ],
          i * STEP_WORDS,
        );
      });
      memory.write({ memory: this.#table, offset: 0 }, words);
    } catch (error) {
      memory.free(this.#table);
      throw error;
    }
  }

  async run(from = 0, to = this.#steps): Promise<void> {
    const { ms } = await this.#pool.run([this.#address, from, to, 0], this.#ms);
    if (to - from === this.#steps) this.#ms = ms;
  }

  async profile(): Promise<StepTimes> {
    const steps = this.#steps,
      memory = this.#memory.alloc(steps * 16),
      place = { memory, offset: 0 };
    const raw = new BigInt64Array(steps * 2);
    try {
      await this.#pool.run([this.#address, 0, steps, this.#memory.addressOf(place)]);
      this.#memory.read(place, raw);
    } finally {
      this.#memory.free(memory);
    }
    const pick = (k: number): Float64Array => Float64Array.from({ length: steps }, (_, i) => Number(raw[2 * i + k]));
    return { ns: pick(0), tasks: pick(1) };
  }

  dispose(): void {
    this.#memory.free(this.#table);
  }
}
