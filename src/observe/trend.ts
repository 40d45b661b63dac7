// The trend of a series of numbers. In: numbers in order of time; out: the mean rise from one to the next.

const MIN_VALUES = 8; // with fewer values, no trend is reported
const MIN_RATIO = 3; // a slope counts only if it is more than this many times its standard error

/** Slope of the line through the values (least squares); 0 if it may be due to chance. */
export function slope(values: readonly number[]): number {
  const n = values.length;
  if (n < MIN_VALUES) return 0;
  const middle = (n - 1) / 2,
    mean = values.reduce((a, b) => a + b, 0) / n;
  const spread = (n * (n * n - 1)) / 12; // sum of (i - middle)^2
  const rise = values.reduce((s, v, i) => s + (i - middle) * (v - mean), 0) / spread;
  const rest = values.reduce((s, v, i) => s + (v - mean - rise * (i - middle)) ** 2, 0);
  return Math.abs(rise) > MIN_RATIO * Math.sqrt(rest / (n - 2) / spread) ? rise : 0;
}
