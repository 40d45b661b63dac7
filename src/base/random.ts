// Counter-based random numbers: Threefry-2x32 with 20 rounds (Salmon et al., SC 2011). A number depends only on its key
// and its counter, never on how many numbers were drawn before. Key: (seed, hash of a name); counter: (step, logical
// index).
import type { TypedArray } from './dtype.ts';
import { UserError } from './errors.ts';
import { hash32 } from './hash.ts';
import { cosOfTurn, logOfRest, sinOfTurn } from './trig.ts';

/**
 * The second output word of the last call. A variable, since returning a pair for each number would allocate memory.
 */
let second = 0;

/** The first output word for key (k0, k1) and counter (c0, c1), all uint32, as int32. */
function first(k0: number, k1: number, c0: number, c1: number): number {
  const k2 = 0x1bd11bda ^ k0 ^ k1;
  let x0 = (c0 + k0) | 0,
    x1 = (c1 + k1) | 0;
  x0 = (x0 + x1) | 0;
  x1 = ((x1 << 13) | (x1 >>> 19)) ^ x0;
  x0 = (x0 + x1) | 0;
  x1 = ((x1 << 15) | (x1 >>> 17)) ^ x0;
  x0 = (x0 + x1) | 0;
  x1 = ((x1 << 26) | (x1 >>> 6)) ^ x0;
  x0 = (x0 + x1) | 0;
  x1 = ((x1 << 6) | (x1 >>> 26)) ^ x0;
  x0 = (x0 + k1) | 0;
  x1 = (x1 + k2 + 1) | 0;
  x0 = (x0 + x1) | 0;
  x1 = ((x1 << 17) | (x1 >>> 15)) ^ x0;
  x0 = (x0 + x1) | 0;
  x1 = ((x1 << 29) | (x1 >>> 3)) ^ x0;
  x0 = (x0 + x1) | 0;
  x1 = ((x1 << 16) | (x1 >>> 16)) ^ x0;
  x0 = (x0 + x1) | 0;
  x1 = ((x1 << 24) | (x1 >>> 8)) ^ x0;
  x0 = (x0 + k2) | 0;
  x1 = (x1 + k0 + 2) | 0;
  x0 = (x0 + x1) | 0;
  x1 = ((x1 << 13) | (x1 >>> 19)) ^ x0;
  x0 = (x0 + x1) | 0;
  x1 = ((x1 << 15) | (x1 >>> 17)) ^ x0;
  x0 = (x0 + x1) | 0;
  x1 = ((x1 << 26) | (x1 >>> 6)) ^ x0;
  x0 = (x0 + x1) | 0;
  x1 = ((x1 << 6) | (x1 >>> 26)) ^ x0;
  x0 = (x0 + k0) | 0;
  x1 = (x1 + k1 + 3) | 0;
  x0 = (x0 + x1) | 0;
  x1 = ((x1 << 17) | (x1 >>> 15)) ^ x0;
  x0 = (x0 + x1) | 0;
  x1 = ((x1 << 29) | (x1 >>> 3)) ^ x0;
  x0 = (x0 + x1) | 0;
  x1 = ((x1 << 16) | (x1 >>> 16)) ^ x0;
  x0 = (x0 + x1) | 0;
  x1 = ((x1 << 24) | (x1 >>> 8)) ^ x0;
  x0 = (x0 + k1) | 0;
  x1 = (x1 + k2 + 4) | 0;
  x0 = (x0 + x1) | 0;
  x1 = ((x1 << 13) | (x1 >>> 19)) ^ x0;
  x0 = (x0 + x1) | 0;
  x1 = ((x1 << 15) | (x1 >>> 17)) ^ x0;
  x0 = (x0 + x1) | 0;
  x1 = ((x1 << 26) | (x1 >>> 6)) ^ x0;
  x0 = (x0 + x1) | 0;
  x1 = ((x1 << 6) | (x1 >>> 26)) ^ x0;
  x0 = (x0 + k2) | 0;
  x1 = (x1 + k0 + 5) | 0;
  second = x1;
  return x0;
}

/** The two output words for key (k0, k1) and counter (c0, c1), all uint32. */
export function threefry(k0: number, k1: number, c0: number, c1: number): [number, number] {
  const x0 = first(k0 | 0, k1 | 0, c0 | 0, c1 | 0);
  return [x0 >>> 0, second >>> 0];
}

/** A uint32 as a float in [0, 1) with 24 bits: the same value in float32 and float64. */
export const unit24 = (word: number): number => (word >>> 8) / 0x1000000;

/**
 * Checks a seed, which must be a uint32: any other number would be cut to one silently. `where` names the caller in the
 * error.
 */
export function checkSeed(where: string, seed: unknown): number {
  if (typeof seed === 'number' && Number.isInteger(seed) && seed >= 0 && seed <= 0xffffffff) return seed;
  const got = typeof seed === 'number' ? seed : typeof seed;
  throw new UserError(`${where}: a seed must be a whole number from 0 to 4294967295, got ${got}`);
}

/** A named stream of numbers: `at(i)` is a pure function of (seed, name, step, i). */
export class Stream {
  readonly #seed: number;
  readonly #name: number;
  constructor(seed: number, name: string) {
    this.#seed = checkSeed(name, seed);
    this.#name = hash32(name);
  }

  uint(step: number, index: number): number {
    return first(this.#seed | 0, this.#name | 0, step | 0, index | 0) >>> 0;
  }

  /** Uniform in [0, 1). */
  uniform(step: number, index: number): number {
    return unit24(this.uint(step, index));
  }

  /** Standard normal: numbers 2 i and 2 i + 1 are made by Box-Muller from the two words of counter i. */
  normal(step: number, index: number): number {
    const a = first(this.#seed | 0, this.#name | 0, step | 0, index >>> 1),
      angle = second >>> 8;
    return Math.sqrt(-2 * logOfRest(a >>> 8)) * (index % 2 === 0 ? cosOfTurn(angle) : sinOfTurn(angle));
  }

  /** Writes normal(step, from + i) * std to every element i of `out`; `from` must be even. */
  normals<T extends TypedArray>(step: number, std: number, out: T, from = 0): T {
    const seed = this.#seed | 0,
      name = this.#name | 0,
      counter = step | 0;
    // If the length is odd, the partner of the last number is not stored.
    for (let i = 0; i < out.length; i += 2) {
      const a = first(seed, name, counter, (from + i) >>> 1),
        radius = std * Math.sqrt(-2 * logOfRest(a >>> 8)),
        angle = second >>> 8;
      out[i] = radius * cosOfTurn(angle);
      out[i + 1] = radius * sinOfTurn(angle);
    }
    return out;
  }

  /** A permutation of 0..length-1 (Fisher-Yates). */
  permutation(step: number, length: number): Uint32Array {
    const order = Uint32Array.from({ length }, (_, i) => i);
    for (let i = length - 1; i > 0; i--) {
      const j = Math.floor((this.uint(step, i) / 0x100000000) * (i + 1));
      const t = order[i];
      order[i] = order[j];
      order[j] = t;
    }
    return order;
  }
}
