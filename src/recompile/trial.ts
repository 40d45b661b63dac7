// Whether a change pays: old and new plan take turns, step by step, and the ratio of their times is judged pair by pair.
export const PAIRS = 16;
const T_90 = 1.753; // Student's t: 95% quantile with 15 degrees of freedom, so that 90% lie between

export interface Ratio { readonly mean: number; readonly low: number; readonly high: number }

/** Geometric mean of old / new over pairs, and its 90% interval. */
export function ratioOf(pairs: readonly (readonly [old: number, fresh: number])[]): Ratio {
  const logs = pairs.map(([old, fresh]) => Math.log(old / fresh)), n = logs.length, mean = logs.reduce((a, b) => a + b, 0) / n;
  const spread = Math.sqrt(logs.reduce((s, x) => s + (x - mean) ** 2, 0) / Math.max(1, n - 1) / n) * T_90;
  return { mean: Math.exp(mean), low: Math.exp(mean - spread), high: Math.exp(mean + spread) };
}

export class Trial {
  readonly #old: number[] = [];
  readonly #fresh: number[] = [];

  /** Which plan the next step takes: in pairs old new, new old, old new, so that a drift favours neither. */
  get next(): 'old' | 'new' {
    const n = this.#old.length + this.#fresh.length, pair = n >> 1;
    return (n + pair) % 2 === 0 ? 'old' : 'new';
  }

  took(plan: 'old' | 'new', ms: number): void { (plan === 'old' ? this.#old : this.#fresh).push(ms); }

  get done(): boolean { return Math.min(this.#old.length, this.#fresh.length) >= PAIRS; }
  get ratio(): Ratio { return ratioOf(this.#old.slice(0, PAIRS).map((old, i) => [old, this.#fresh[i]])); }
  get medians(): { old: number; fresh: number } { return { old: median(this.#old), fresh: median(this.#fresh) }; }
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? NaN;
}
