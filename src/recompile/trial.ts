// Whether a change pays: old and new plan take turns, step by step, and the ratio of their times is judged pair by
// pair. The two steps of a pair are neighbours in time.
import { median } from '../observe/run-stats.ts';

export const PAIRS = 16;
// Ranks of the bounds: with 16 pairs the median lies between the 5th and the 12th ratio 92 times of 100, whatever the
// distribution.
const LOW = 4,
  HIGH = 11;

export interface Ratio {
  readonly median: number;
  readonly low: number;
  readonly high: number;
}

/**
 * Median of old / new over 16 pairs, and its 92% interval. Steps have outliers (garbage collection, other processes),
 * and one of three times the usual length is enough to widen an interval of Student's t until nothing is decided:
 * simulated with 3% noise and 5% of the steps longer, up to six times, a plan that is 10% slower is undone 52 times of
 * 100 by the t interval of the geometric mean, 99 by this one, and an equal plan 2 and 4; without outliers a plan that
 * is 5% slower is undone 99 and 96 times.
 */
export function ratioOf(pairs: readonly (readonly [old: number, fresh: number])[]): Ratio {
  const ratios = pairs.map(([old, fresh]) => old / fresh).sort((a, b) => a - b),
    n = ratios.length;
  return { median: Math.sqrt(ratios[(n - 1) >> 1] * ratios[n >> 1]), low: ratios[LOW], high: ratios[HIGH] };
}

export class Trial {
  /** Batches of one shape are compared; those of others run with the old plan beside. */
  readonly shape: string;
  readonly #old: number[] = [];
  readonly #fresh: number[] = [];
  #mismatched = 0;

  constructor(shape: string) {
    this.shape = shape;
  }

  /** Which plan the next step takes: in pairs old new, new old, old new, so that a drift favours neither. */
  get next(): 'old' | 'new' {
    const n = this.#old.length + this.#fresh.length,
      pair = n >> 1;
    return (n + pair) % 2 === 0 ? 'old' : 'new';
  }

  took(plan: 'old' | 'new', ms: number): void {
    (plan === 'old' ? this.#old : this.#fresh).push(ms);
  }

  /** A batch of another shape came. How many there were. */
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
