// Quantiles of a list of numbers.

/** The middle value; of an even number of values, the mean of the two in the middle. NaN for an empty list. */
export const median = (values: readonly number[]): number => quantile(values, 0.5);

/** The quantile `q`, interpolated linearly between the two nearest values. */
export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b),
    at = q * (sorted.length - 1),
    low = Math.floor(at);
  return sorted.length === 0
    ? NaN
    : sorted[low] + (at - low) * (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]);
}
