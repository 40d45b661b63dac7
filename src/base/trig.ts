// Logarithm, sine and cosine of 24-bit fractions, for Box-Muller: tables and short polynomials, which take a third of
// the time of Math.log, Math.cos and Math.sin. Their results differ from those by at most 1e-15 (the logarithm
// relatively): of the float32 made from them, about one in ten million is another.

const STEPS = 1024; // steps in a full turn, and in the mantissas from 1/2 to 1
/**
 * Cosines, sines, logarithms and inverses: devices that make initial values read this table (device/native/normals.c,
 * emit/wasm/normals.ts).
 */
export const TABLES = new Float64Array(4 * STEPS + 2);
const COS = TABLES.subarray(0, STEPS),
  SIN = TABLES.subarray(STEPS, 2 * STEPS);
// For the mantissa (STEPS + i) / (2 STEPS).
const LOG = TABLES.subarray(2 * STEPS, 3 * STEPS + 1),
  INVERSE = TABLES.subarray(3 * STEPS + 1);
for (let i = 0; i < STEPS; i++) {
  COS[i] = Math.cos((2 * Math.PI * i) / STEPS);
  SIN[i] = Math.sin((2 * Math.PI * i) / STEPS);
}
for (let i = 0; i <= STEPS; i++) {
  LOG[i] = Math.log((STEPS + i) / (2 * STEPS));
  INVERSE[i] = (2 * STEPS) / (STEPS + i);
}
const UNIT = 2 ** -24,
  TURN = 2 * Math.PI * UNIT,
  LOW = 2 ** 14 - 1;

/** log(1 - n / 2^24), n a whole number from 0 to 2^24 - 1. */
export function logOfRest(n: number): number {
  if (n === 0) return 0;
  // mantissa: 2^23 to 2^24 - 1
  const rest = 0x1000000 - n,
    shift = Math.clz32(rest) - 8,
    mantissa = rest << shift,
    i = (mantissa + 0x1000) >> 13;
  const r = (mantissa - (i << 13)) * UNIT * INVERSE[i - STEPS];
  return LOG[i - STEPS] - shift * Math.LN2 + r * (1 - r * (1 / 2 - r * (1 / 3 - r * (1 / 4 - r / 5))));
}

/** cos(2 pi n / 2^24), n a whole number from 0 to 2^24 - 1. */
export function cosOfTurn(n: number): number {
  const i = n >> 14,
    b = (n & LOW) * TURN,
    q = b * b;
  return COS[i] * (1 - q * (1 / 2 - q * (1 / 24 - q / 720))) - SIN[i] * b * (1 - q * (1 / 6 - q / 120));
}

/** sin(2 pi n / 2^24), n as above. */
export function sinOfTurn(n: number): number {
  const i = n >> 14,
    b = (n & LOW) * TURN,
    q = b * b;
  return SIN[i] * (1 - q * (1 / 2 - q * (1 / 24 - q / 720))) + COS[i] * b * (1 - q * (1 / 6 - q / 120));
}
