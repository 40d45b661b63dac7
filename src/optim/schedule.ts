// Learning-rate schedules: functions of the step.
import { UserError } from '../base/errors.ts';
import { checkOptions, type KeysOf } from '../base/options.ts';
import { aNumber, needed } from '../base/kinds.ts';

export interface WarmupCosine {
  /** Highest rate, above 0. */
  readonly peak: number;
  /** Steps of linear rise, at most `total`. */
  readonly warmup: number;
  /** Steps in all, at least 1; the rate stays at `floor` after them. */
  readonly total: number;
  /** Lowest rate, from 0 to `peak`; default a tenth of the peak. */
  readonly floor?: number;
}
const KEYS: KeysOf<WarmupCosine> = {
  peak: needed(aNumber),
  warmup: needed(aNumber),
  total: needed(aNumber),
  floor: aNumber,
};

/** Linear warm-up, then half a cosine from the peak to the floor (Loshchilov & Hutter 2017). Throws UserError for
 * numbers that make no such curve. */
export function warmupCosine(options: WarmupCosine): (step: number) => number {
  checkOptions('warmupCosine', options, KEYS);
  const { peak, warmup, total, floor = peak / 10 } = options;
  const refuse = (what: string): never => {
    throw new UserError(`warmupCosine: ${what}`, 'warmupCosine({ peak: 1e-3, warmup: 100, total: 2000 })');
  };
  if (!(Number.isFinite(peak) && peak > 0)) refuse(`peak must be a number above 0, got ${peak}`);
  if (!(Number.isInteger(total) && total >= 1)) refuse(`total must be a whole number of at least 1, got ${total}`);
  if (!(Number.isInteger(warmup) && warmup >= 0)) refuse(`warmup must be a whole number of at least 0, got ${warmup}`);
  if (warmup > total)
    refuse(`warmup takes ${warmup} steps, more than the ${total} in all: the rate would never reach its peak`);
  if (!(floor >= 0 && floor <= peak)) refuse(`floor must be from 0 to the peak (${peak}), got ${floor}`);
  return (step) => {
    if (step < warmup) return (peak * (step + 1)) / warmup;
    const share = Math.min(1, (step - warmup) / Math.max(1, total - warmup));
    return floor + 0.5 * (peak - floor) * (1 + Math.cos(Math.PI * share));
  };
}
