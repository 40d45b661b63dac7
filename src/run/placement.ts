// Where the experts of a bank lie over ranks. Ranks divide a bank of E experts if their number R divides E: rank r has
// the slots r E / R to (r + 1) E / R - 1, and `slots` says which expert is in each. Other banks are whole on every
// rank.
// In: ranks, and the expert in each slot; out: which elements of a bank are whose.
import { hostArray, type DType, type TypedArray } from '../base/dtype.ts';
import { UserError } from '../base/errors.ts';
import { own } from '../base/own.ts';
import type { Run } from '../base/runs.ts';
import type { Ranks } from '../device/ranks.ts';

/** The expert in each slot, by the number of experts of a bank. */
export type Slots = Readonly<Record<string, readonly number[]>>;

export class Placement {
  readonly ranks: Ranks;
  readonly #given: Slots;
  readonly #slots = new Map<number, Int32Array>();

  /** slots: by number of experts, the expert in each slot; by default expert e is in slot e. */
  constructor(ranks: Ranks, slots: Slots = {}) {
    this.ranks = ranks;
    this.#given = slots;
    for (const [experts, order] of Object.entries(slots)) checkSlots(Number(experts), order);
  }

  /** int32 [experts]: the expert in each slot. */
  slots(experts: number): Int32Array {
    const found = this.#slots.get(experts) ?? Int32Array.from(own(this.#given, `${experts}`) ?? range(experts));
    this.#slots.set(experts, found);
    return found;
  }

  /** The shape of a rank's part of a bank; null: the bank is whole on every rank. */
  part([experts, ...rest]: readonly number[]): number[] | null {
    const { size } = this.ranks;
    return experts !== undefined && experts % size === 0 ? [experts / size, ...rest] : null;
  }

  /** The elements of a rank's part of a divided bank, in the order in which they lie. */
  runs([experts, ...rest]: readonly number[], rank = this.ranks.rank): Run[] {
    const each = rest.reduce((n, d) => n * d, 1),
      most = experts / this.ranks.size,
      runs: { at: number; from: number; count: number }[] = [];
    this.slots(experts)
      .subarray(rank * most, (rank + 1) * most)
      .forEach((expert, slot) => {
        const last = runs.at(-1);
        if (last && last.from + last.count === expert * each) last.count += each;
        else runs.push({ at: slot * each, from: expert * each, count: each });
      });
    return runs;
  }

  /** This rank's part of a bank. */
  cut(shape: readonly number[], bank: TypedArray): TypedArray {
    const part = bank.slice(0, bank.length / this.ranks.size);
    for (const { at, from, count } of this.runs(shape)) part.set(bank.subarray(from, from + count), at);
    return part;
  }

  /** The bank of which `part` is this rank's part. Every rank calls it. */
  whole(shape: readonly number[], dtype: DType, part: TypedArray): TypedArray {
    const parts = this.ranks.gather(new Uint8Array(part.buffer, part.byteOffset, part.byteLength)),
      bank = hostArray(dtype, part.length * this.ranks.size),
      bytes = new Uint8Array(bank.buffer),
      wide = bank.BYTES_PER_ELEMENT;
    parts.forEach((got, rank) => {
      for (const { at, from, count } of this.runs(shape, rank))
        bytes.set(got.subarray(at * wide, (at + count) * wide), from * wide);
    });
    return bank;
  }
}

const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

function checkSlots(experts: number, order: readonly number[]): void {
  const sorted = [...order].sort((a, b) => a - b);
  if (sorted.length === experts && sorted.every((expert, i) => expert === i)) return;
  throw new UserError(
    `compile: a placement of ${experts} experts must name each from 0 to ${experts - 1} once, got ` +
      `[${order.join(', ')}]`,
    '{ 4: [2, 0, 3, 1] } puts expert 2 into slot 0',
  );
}
