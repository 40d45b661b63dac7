// Elementary functions of a float64 with any number of digits, computed with integers: float64 results are compared
// with them. A value x is represented by v = x * 2^P.
const P = 640n,
  ONE = 1n << P;

const times = (a: bigint, b: bigint): bigint => (a * b) >> P;
const over = (a: bigint, b: bigint): bigint => (a << P) / b;

/** A float64, exactly; its lowest bit must be above 2^-P. */
function fixed(x: number): bigint {
  const [mantissa, exponent] = parts(x),
    shift = P + BigInt(exponent);
  return shift >= 0n ? mantissa << shift : mantissa >> -shift;
}

/** x = mantissa * 2^exponent. */
function parts(x: number): [bigint, number] {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, x);
  const bits = view.getBigUint64(0),
    exponent = Number((bits >> 52n) & 0x7ffn),
    fraction = bits & ((1n << 52n) - 1n);
  const mantissa = exponent === 0 ? fraction : fraction | (1n << 52n);
  return [bits >> 63n ? -mantissa : mantissa, Math.max(1, exponent) - 1075];
}

/** The float64 nearest to v / 2^P * 2^by, ties to even, if it is not subnormal. */
function nearest(v: bigint, by = 0n): number {
  if (v < 0n) return -nearest(-v, by);
  const length = v.toString(2).length,
    drop = BigInt(length - 53);
  if (v === 0n) return 0;
  let kept = drop > 0n ? v >> drop : v << -drop;
  const rest = drop > 0n ? v - (kept << drop) : 0n,
    half = drop > 0n ? 1n << (drop - 1n) : 1n;
  if (rest > half || (rest === half && (kept & 1n) === 1n)) kept++;
  const exponent = Number(drop - P + by);
  return (
    Number(kept) *
    2 ** Math.max(-1000, Math.min(900, exponent)) *
    2 ** (exponent - Math.max(-1000, Math.min(900, exponent)))
  );
}

/** The sum of term(n) from n = 0 until a term is 0. */
function series(
  first: bigint,
  next: (term: bigint, n: bigint) => bigint,
  part: (term: bigint, n: bigint) => bigint = (t) => t,
): bigint {
  let total = 0n,
    term = first;
  for (let n = 0n; term !== 0n; n++) {
    total += part(term, n);
    term = next(term, n);
  }
  return total;
}

const arctanInverse = (d: bigint): bigint =>
  series(
    ONE / d,
    (t) => -t / (d * d),
    (t, n) => t / (2n * n + 1n),
  );
const PI = 16n * arctanInverse(5n) - 4n * arctanInverse(239n);
/** ln 2 = 2 artanh(1/3). */
const LN2 =
  2n *
  series(
    ONE / 3n,
    (t) => t / 9n,
    (t, n) => t / (2n * n + 1n),
  );
const round = (a: bigint, b: bigint): bigint => {
  const q = (2n * a + b) / (2n * b);
  return (2n * a + b) % (2n * b) < 0n ? q - 1n : q;
};

/** e^x as a value and a power of 2. */
function power(x: bigint): [bigint, bigint] {
  const k = round(x, LN2),
    r = x - k * LN2;
  return [series(ONE, (t, n) => times(t, r) / (n + 1n)), k];
}
const shifted = ([v, k]: [bigint, bigint]): bigint => (k >= 0n ? v << k : v >> -k);

/** ln x by Newton's method, starting with the float64 result: y + 2 (x - e^y) / (x + e^y). */
function log(x: number): bigint {
  // 1/2 to 1
  const [mantissa, exponent] = parts(x),
    length = mantissa.toString(2).length,
    unit = (mantissa << P) >> BigInt(length);
  let y = fixed(Math.log(Number(unit) / 2 ** Number(P)));
  for (let i = 0; i < 3; i++) {
    const e = shifted(power(y));
    y += over(2n * (unit - e), unit + e);
  }
  return y + BigInt(exponent + length) * LN2;
}

function circle(x: number, quarter: bigint): number {
  const v = fixed(x),
    n = round(2n * v, PI),
    r = (2n * v - n * PI) / 2n,
    square = times(r, r),
    turn = (((n + quarter) % 4n) + 4n) % 4n;
  const sin = series(r, (t, i) => -times(t, square) / ((2n * i + 2n) * (2n * i + 3n))),
    cos = series(ONE, (t, i) => -times(t, square) / ((2n * i + 1n) * (2n * i + 2n)));
  return nearest([sin, cos, -sin, -cos][Number(turn)]);
}

/**
 * Each result is correctly rounded. Arguments of tanh, erf and sigmoid must be at least 1e-30 in size, those of sigmoid
 * at most 200, those of pow above 0.
 */
export const exact: Readonly<Record<string, (x: number, y: number) => number>> = {
  exp: (x) => nearest(...power(fixed(x))),
  log: (x) => nearest(log(x)),
  sin: (x) => circle(x, 0n),
  cos: (x) => circle(x, 1n),
  tanh(x) {
    const e = shifted(power(2n * fixed(x)));
    return nearest(over(e - ONE, e + ONE));
  },
  sigmoid: (x) => nearest(over(ONE, ONE + shifted(power(-fixed(x))))),
  erf(x) {
    const v = fixed(x),
      square = times(v, v),
      sum = series(
        v,
        (t, n) => -times(t, square) / (n + 1n),
        (t, n) => t / (2n * n + 1n),
      );
    return nearest(over(2n * sum, root(PI)));
  },
  sqrt: (x) => nearest(root(fixed(x))),
  pow: (x, y) => nearest(...power((fixed(y) * log(x)) >> P)),
};

function root(v: bigint): bigint {
  const of = v << P;
  let r = 1n << BigInt(Math.ceil(of.toString(2).length / 2));
  for (;;) {
    const next = (r + of / r) >> 1n;
    if (next >= r) return r;
    r = next;
  }
}

/** The number of float64 values between two values, including one of them. */
export function ulps(a: number, b: number): number {
  if (Object.is(a, b) || a === b) return 0;
  if (!Number.isFinite(a) || !Number.isFinite(b)) return Infinity;
  const place = (x: number): bigint => {
    const view = new DataView(new ArrayBuffer(8));
    view.setFloat64(0, x);
    const n = view.getBigInt64(0);
    return n < 0n ? -(n & ((1n << 63n) - 1n)) : n;
  };
  const d = place(a) - place(b);
  return Number(d < 0n ? -d : d);
}
