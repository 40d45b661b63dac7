// Learning-rate schedules: functions of the step.

export interface WarmupCosine {
  readonly peak: number;
  /** Steps of linear rise. */
  readonly warmup: number;
  /** Steps in all; the rate stays at `floor` after them. */
  readonly total: number;
  /** Lowest rate; default a tenth of the peak. */
  readonly floor?: number;
}

/** Linear warm-up, then half a cosine from the peak to the floor (Loshchilov & Hutter 2017). */
export function warmupCosine({ peak, warmup, total, floor = peak / 10 }: WarmupCosine): (step: number) => number {
  return (step) => {
    if (step < warmup) return (peak * (step + 1)) / warmup;
    const share = Math.min(1, (step - warmup) / Math.max(1, total - warmup));
    return floor + 0.5 * (peak - floor) * (1 + Math.cos(Math.PI * share));
  };
}
