// Counter-based randomness: Threefry-2x32 with 20 rounds (Salmon et al., SC 2011). A number depends only on its key and counter,
// never on how many were drawn before: key = (seed, hash of a name), counter = (step, logical index).
import { hash32 } from './hash.ts';

const ROTATIONS = [13, 15, 26, 6, 17, 29, 16, 24];

/** The two output words for key (k0, k1) and counter (c0, c1), all uint32. */
export function threefry(k0: number, k1: number, c0: number, c1: number): [number, number] {
  const keys = [k0 | 0, k1 | 0, 0x1bd11bda ^ k0 ^ k1];
  let x0 = (c0 + keys[0]) | 0, x1 = (c1 + keys[1]) | 0;
  for (let round = 0; round < 20; round++) {
    x0 = (x0 + x1) | 0;
    const r = ROTATIONS[round % 8];
    x1 = ((x1 << r) | (x1 >>> (32 - r))) ^ x0;
    if (round % 4 === 3) {
      const inject = (round + 1) / 4;
      x0 = (x0 + keys[inject % 3]) | 0;
      x1 = (x1 + keys[(inject + 1) % 3] + inject) | 0;
    }
  }
  return [x0 >>> 0, x1 >>> 0];
}

/** A uint32 as a float in [0, 1) with 24 bits: the same value in float32 and float64. */
export const unit24 = (word: number): number => (word >>> 8) / 0x1000000;

/** A named stream of numbers: `at(i)` is a pure function of (seed, name, step, i). */
export class Stream {
  readonly #seed: number;
  readonly #name: number;
  constructor(seed: number, name: string) {
    this.#seed = seed >>> 0;
    this.#name = hash32(name);
  }

  uint(step: number, index: number): number {
    return threefry(this.#seed, this.#name, step, index)[0];
  }

  /** Uniform in [0, 1). */
  uniform(step: number, index: number): number {
    return unit24(this.uint(step, index));
  }

  /** Standard normal (Box-Muller on the two words of one counter). */
  normal(step: number, index: number): number {
    const [a, b] = threefry(this.#seed, this.#name, step, index);
    return Math.sqrt(-2 * Math.log(1 - unit24(a))) * Math.cos(2 * Math.PI * unit24(b));
  }

  /** A permutation of 0..length-1 (Fisher-Yates). */
  permutation(step: number, length: number): Uint32Array {
    const order = Uint32Array.from({ length }, (_, i) => i);
    for (let i = length - 1; i > 0; i--) {
      const j = Math.floor((this.uint(step, i) / 0x100000000) * (i + 1));
      const t = order[i]; order[i] = order[j]; order[j] = t;
    }
    return order;
  }
}
