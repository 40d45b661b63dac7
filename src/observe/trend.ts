// The trend of a series of numbers. In: numbers in order of time; out: the mean rise from one to the next.

const LEAST = 8; // of which a line tells
const SURE = 3; // times as much as chance makes of numbers that do not rise

/** Slope of the line through the values (least squares); 0 where it may be chance. */
export function slope(values: readonly number[]): number {
  const n = values.length;
  if (n < LEAST) return 0;
  const middle = (n - 1) / 2,
    mean = values.reduce((a, b) => a + b, 0) / n;
  const spread = (n * (n * n - 1)) / 12; // of the places about their middle
  const rise = values.reduce((s, v, i) => s + (i - middle) * (v - mean), 0) / spread;
  const rest = values.reduce((s, v, i) => s + (v - mean - rise * (i - middle)) ** 2, 0);
  return Math.abs(rise) > SURE * Math.sqrt(rest / (n - 2) / spread) ? rise : 0;
}
