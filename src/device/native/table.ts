// A table of steps in the native device's memory, with the addresses of functions and buffers.
import type { Memory } from '../device.ts';
import type { Bound, BoundCollective, BoundStep, StepTimes } from '../device.ts';
import type { NativeKernel } from './library.ts';
import type { NativeMemory } from './memory.ts';
import type { NativePool } from './pool.ts';

// dm_step in driver.h: tasks, run, buffers, integers, skip_if, flags, groups, offsets, slot, slots, exchange
const STEP_WORDS = 11;
const BARRIER = 1n,
  SLOTS_COME = 2n;

/** A step and the addresses of its functions. */
export interface Launch {
  readonly code: NativeKernel;
  readonly step: BoundStep;
  /** Of a product whose rows come or go slot by slot. */
  readonly slot?: number;
}

const isCollective = (step: BoundStep | undefined): step is BoundCollective =>
  step !== undefined && 'collective' in step;

/** Words that a collective step needs besides its buffers, integers and label: an address, a ticket and its address. */
const COLLECTIVE_WORDS = 4;
/** The last of them: SLOTS_* of mpi/queue.h. */
const SLOTS = { none: 0, come: 1, go: 2 } as const;

/** The text that names a collective step in messages, in whole words, with a zero at the end. */
function labelOf(step: BoundStep): BigInt64Array {
  if (!('collective' in step)) return new BigInt64Array(0);
  const text = Buffer.from(`${step.collective} ${step.index}${step.scope && ` in ${step.scope}`}`),
    words = new BigInt64Array(Math.floor(text.length / 8) + 1);
  new Uint8Array(words.buffer).set(text);
  return words;
}

export class NativeTable implements Bound {
  readonly #steps: number;
  readonly #memory: NativeMemory;
  readonly #pool: NativePool;
  readonly #table: Memory;
  readonly #address: number;
  /** Duration of the last complete run. */
  #ms = Infinity;

  constructor(memory: NativeMemory, pool: NativePool, steps: readonly Launch[]) {
    const labels = steps.map(({ step }) => labelOf(step)),
      size = steps.reduce(
        (n, { step: s }, i) =>
          n +
          STEP_WORDS +
          s.buffers.length +
          s.ints.length +
          labels[i].length +
          (isCollective(s) ? COLLECTIVE_WORDS : 0),
        0,
      ),
      words = new BigInt64Array(size);
    this.#steps = steps.length;
    this.#memory = memory;
    this.#pool = pool;
    this.#table = memory.alloc(words.byteLength);
    this.#address = memory.addressOf({ memory: this.#table, offset: 0 });
    let tail = steps.length * STEP_WORDS;
    const put = (values: Iterable<number | bigint>): bigint => {
      const at = this.#address + tail * 8;
      for (const v of values) words[tail++] = BigInt(v);
      return BigInt(at);
    };
    // By step, the address of the word in which it leaves the number of the exchange that it has begun.
    const tickets = new Map<number, bigint>(),
      argumentsOf = (s: BoundStep, i: number): readonly (number | bigint)[] => {
        if (!isCollective(s)) return s.ints;
        if (s.phase === 'wait') return [tickets.get(s.begunBy ?? -1) ?? 0n];
        if (s.phase === 'begin') tickets.set(i, put([0]));
        const begins = s.phase === 'begin' ? [tickets.get(i) ?? 0n, SLOTS[s.slots ?? 'none']] : [];
        return [...s.ints, put(labels[i]), ...begins];
      };
    try {
      steps.forEach(({ code: { tasks, run }, step: s, slot = 0 }, i) => {
        const afterCollective = isCollective(steps.at(i - 1)?.step) && i > 0,
          chain = 'kernel' in s && !afterCollective ? s.runsGroupwiseAfterPrevious : undefined,
          bySlot = 'kernel' in s ? s.bySlot : undefined;
        words.set(
          [
            BigInt(tasks),
            BigInt(run),
            put(s.buffers.map((b) => memory.addressOf(b))),
            put(argumentsOf(s, i)),
            BigInt(s.unless ? memory.addressOf(s.unless) : 0),
            (s.barrier || afterCollective || isCollective(s) ? BARRIER : 0n) |
              (bySlot?.slots === 'come' ? SLOTS_COME : 0n),
            BigInt(chain?.groups ?? 0),
            BigInt(chain ? memory.addressOf(chain.offsets) : 0),
            BigInt(slot),
            BigInt(bySlot?.groups ?? 0),
            bySlot ? (tickets.get(bySlot.exchange) ?? 0n) : 0n,
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
