// The collectives in plain TypeScript, and random data for them.

/** Random numbers that are the same on every rank. */
export class Draws {
  #state: number;
  constructor(seed: number) {
    this.#state = seed;
  }
  /** 0 <= n < 2^32 (xorshift32). */
  next(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x >>> 0;
    return this.#state;
  }
  below(n: number): number {
    return this.next() % n;
  }
  /** A number of any size and sign, so that the order of a sum shows in its bits. */
  real(): number {
    return (this.next() / 2 ** 32 - 0.5) * 2 ** this.below(20);
  }
}

export interface Rows {
  readonly experts: number;
  /** Elements of a row. */
  readonly width: number;
  /** By rank, the rows that it sends to each expert. */
  readonly counts: readonly Int32Array[];
  /** The expert in each slot. */
  readonly slots: Int32Array;
  /** By rank, where the rows of its slots begin, and where they end. */
  readonly offsets: readonly Int32Array[];
  /** By rank, its rows in the order of experts. */
  readonly tokens: readonly Float32Array[];
}

/** Some cases are special: no rows at all, all rows to one expert, empty ranks, slots in the order of experts. */
export function randomRows(draws: Draws, size: number): Rows {
  const own = 1 + draws.below(5),
    experts = own * size,
    width = 1 + draws.below(33),
    kind = draws.below(6),
    only = draws.below(experts),
    empty = draws.below(size);
  const counts = Array.from({ length: size }, (_, s) =>
    Int32Array.from({ length: experts }, (_, e) => {
      const n = draws.below(2) ? draws.below(12) : 0;
      if (kind === 0 || (kind === 1 && e !== only) || (kind === 2 && s === empty)) return 0;
      return kind === 1 ? n + 100 : n;
    }),
  );
  const slots = Int32Array.from({ length: experts }, (_, e) => e);
  if (kind !== 3)
    for (let i = experts - 1; i > 0; i--) {
      const j = draws.below(i + 1);
      [slots[i], slots[j]] = [slots[j], slots[i]];
    }
  const offsets = Array.from({ length: size }, (_, r) => {
    const ends = new Int32Array(own + 1);
    for (let z = 0; z < own; z++)
      ends[z + 1] = ends[z] + total(counts, slots[r * own + z]) + (draws.below(2) ? draws.below(4) : 0);
    return ends;
  });
  const tokens = counts.map((c) =>
    Float32Array.from({ length: c.reduce((a, b) => a + b, 0) * width }, () => draws.real()),
  );
  return { experts, width, counts, slots, offsets, tokens };
}

const total = (counts: readonly Int32Array[], expert: number): number => counts.reduce((n, c) => n + c[expert], 0);

/** By rank, the rows of its slots: those of each rank in order, then zeros. */
export function exchanged({ counts, slots, offsets, tokens, width, experts }: Rows): Float32Array[] {
  const own = experts / counts.length;
  return offsets.map((ends, r) => {
    const to = new Float32Array(ends[own] * width);
    for (let z = 0; z < own; z++) {
      const e = slots[r * own + z];
      let at = ends[z] * width;
      counts.forEach((c, s) => {
        const first = c.subarray(0, e).reduce((a, b) => a + b, 0) * width,
          piece = tokens[s].subarray(first, first + c[e] * width);
        to.set(piece, at);
        at += piece.length;
      });
    }
    return to;
  });
}

/** ((r0 + r1) + (r2 + r3)) + ..., rounded to the type of the elements after each sum. */
export function joined<T extends Float32Array | Float64Array>(sums: readonly T[]): T {
  if (sums.length === 1) return sums[0];
  const half = sums.length / 2,
    a = joined(sums.slice(0, half)),
    b = joined(sums.slice(half)),
    sum = a.slice() as T;
  for (let i = 0; i < sum.length; i++) sum[i] = a[i] + b[i];
  return sum;
}
