// Shares of questions that were answered rightly, with 95% intervals. In: counts; out: shares and their bounds.

/** A share and its 95% interval. */
export interface Estimate {
  readonly value: number;
  readonly low: number;
  readonly high: number;
}

/** On how many questions two answerers, A and B, were both right, only one, and none. */
export interface Paired {
  readonly both: number;
  readonly onlyA: number;
  readonly onlyB: number;
  readonly neither: number;
}

const Z = 1.959963984540054; // the 97.5% quantile of the normal distribution

/**
 * right / of with Wilson's score interval: (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), where
 * z is 1.96 (Wilson 1927, JASA 22, 209-212). of: at least 1.
 */
export function wilson(right: number, of: number): Estimate {
  const p = right / of,
    square = Z * Z,
    middle = p + square / (2 * of),
    half = Z * Math.sqrt((p * (1 - p)) / of + square / (4 * of * of)),
    scale = 1 + square / of;
  // Rounding must not move a bound off 0 or 1.
  return {
    value: p,
    low: right === 0 ? 0 : (middle - half) / scale,
    high: right === of ? 1 : (middle + half) / scale,
  };
}

/**
 * The share of B minus the share of A, of the same questions, with the square-and-add interval of Wilson's bounds
 * (Newcombe 1998, Statistics in Medicine 17, 2635-2650, method 10). With p, l, u the share and the Wilson bounds of
 * each, the bounds are
 *   d - sqrt((pB - lB)^2 - 2 phi (pB - lB) (uA - pA) + (uA - pA)^2) and
 *   d + sqrt((uB - pB)^2 - 2 phi (uB - pB) (pA - lA) + (pA - lA)^2),
 * where phi is the correlation of the two answers: (both * neither - onlyA * onlyB) / sqrt(product of the four sums of
 * rows and columns), 0 if that root is 0; a numerator above 0 is first made smaller by n / 2, but not below 0.
 */
export function pairedDifference({ both, onlyA, onlyB, neither }: Paired): Estimate {
  const n = both + onlyA + onlyB + neither,
    a = wilson(both + onlyA, n),
    b = wilson(both + onlyB, n),
    product = both * neither - onlyA * onlyB,
    root = Math.sqrt((both + onlyA) * (onlyB + neither) * (both + onlyB) * (onlyA + neither)),
    phi = root === 0 ? 0 : (product > 0 ? Math.max(product - n / 2, 0) : product) / root,
    value = (onlyB - onlyA) / n;
  const joined = (x: number, y: number): number => Math.sqrt(Math.max(0, x * x - 2 * phi * x * y + y * y));
  return {
    value,
    low: value - joined(b.value - b.low, a.high - a.value),
    high: value + joined(b.high - b.value, a.value - a.low),
  };
}
