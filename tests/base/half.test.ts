// Tests 16-bit floats: all 2^16 bit patterns of both types, and rounding of any number, against the definition of
// rounding.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { castValue, convert } from '../../src/base/convert.ts';
import { fromHalf, toHalf, type HalfDType } from '../../src/base/half.ts';
import { hostTensor } from '../../src/base/tensor.ts';

/** Bits of the mantissa, smallest and largest exponent of normal numbers. */
const FORMATS: readonly (readonly [HalfDType, number, number, number])[] = [
  ['bfloat16', 7, -126, 127],
  ['float16', 10, -14, 15],
];
const ALL = Uint16Array.from({ length: 65536 }, (_, i) => i);

/** The value of a bit pattern, by the definition of the format. */
function valueOf(bits: number, mantissa: number, least: number, greatest: number): number {
  const sign = bits & 0x8000 ? -1 : 1,
    exponent = (bits & 0x7fff) >> mantissa,
    fraction = bits & (2 ** mantissa - 1);
  if (exponent === greatest - least + 2) return fraction ? NaN : sign * Infinity;
  return exponent === 0
    ? sign * fraction * 2 ** (least - mantissa)
    : sign * (1 + fraction / 2 ** mantissa) * 2 ** (least + exponent - 1);
}

/**
 * The pattern whose value is nearest to x, or the even one of two equally near, found by bisection among all patterns.
 */
function nearest(x: number, values: readonly number[]): number {
  const top = values.length; // the pattern of infinity
  const beyond = values[top - 1] + (values[top - 1] - values[top - 2]),
    at = (i: number): number => (i === top ? beyond : values[i]);
  let low = 0,
    high = top;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (at(middle) <= x) low = middle;
    else high = middle;
  }
  if (x >= beyond) return top;
  const down = x - at(low),
    up = at(high) - x;
  return down < up || (down === up && low % 2 === 0) ? low : high;
}

for (const [dtype, mantissa, least, greatest] of FORMATS) {
  test(`${dtype}: every pattern to float32 and back`, () => {
    const wide = fromHalf(dtype, ALL, new Float32Array(65536)),
      doubles = fromHalf(dtype, ALL, new Float64Array(65536)),
      back = toHalf(dtype, wide);
    for (let i = 0; i < 65536; i++) {
      const value = valueOf(i, mantissa, least, greatest);
      assert.ok(Object.is(wide[i], value) && Object.is(doubles[i], value), `${i}: ${wide[i]} is not ${value}`);
      if (Number.isNaN(value))
        assert.ok(Number.isNaN(valueOf(back[i], mantissa, least, greatest)), `${i}: NaN became ${back[i]}`);
      else assert.equal(back[i], i);
    }
  });

  test(`${dtype}: any number to the nearest, rounded once`, () => {
    const positive = Array.from({ length: (greatest - least + 2) * 2 ** mantissa }, (_, i) =>
      valueOf(i, mantissa, least, greatest),
    );
    const check = (x: number): void => {
      const want = nearest(Math.abs(x), positive) | (x < 0 || Object.is(x, -0) ? 0x8000 : 0);
      assert.equal(toHalf(dtype, [x])[0], want, `${x}`);
      assert.ok(Object.is(castValue(x, dtype, 'float64'), valueOf(want, mantissa, least, greatest)));
    };
    const values = fc.oneof(
      fc.double({ noNaN: true }),
      fc.float({ noNaN: true }),
      fc.double({ min: -70000, max: 70000, noNaN: true }),
      // Numbers halfway between two neighbours, and just beside: rounding twice (to float32 and then to 16 bits) would
      // be wrong there.
      fc
        .tuple(fc.integer({ min: 0, max: positive.length - 2 }), fc.constantFrom(1, 1 + 2 ** -52, 1 - 2 ** -53, -1))
        .map(([i, f]) => f * (positive[i] + (positive[i + 1] - positive[i]) / 2)),
    );
    fc.assert(fc.property(values, check), { numRuns: 3000 });
    for (const x of [
      0,
      -0,
      Infinity,
      -Infinity,
      1e39,
      -1e39,
      65504,
      65519.99,
      65520,
      65536,
      Number.MAX_VALUE,
      5e-324,
      -5e-324,
    ])
      check(x);
    assert.ok(Number.isNaN(castValue(NaN, dtype, 'float64')));
  });
}

test('convert: both ways, and as ops.cast where a type cannot hold a number', () => {
  const bits = hostTensor('bfloat16', [2], Uint16Array.of(0x3f80, 0xc000));
  assert.deepEqual(convert(bits, 'float32'), { dtype: 'float32', shape: [2], data: Float32Array.of(1, -2) });
  assert.deepEqual(convert(bits, 'float16').data, Uint16Array.of(0x3c00, 0xc000));
  assert.deepEqual(convert(convert(bits, 'float64'), 'bfloat16'), bits);
  assert.deepEqual(
    convert(hostTensor('float32', [6], [NaN, -1.9, 1.9, 3e9, -3e9, Infinity]), 'int32').data,
    Int32Array.of(0, -1, 1, 0x7fffffff, -0x80000000, 0x7fffffff),
  );
  assert.deepEqual(
    convert(hostTensor('float64', [4], [NaN, -1.9, 4294967294.9, 5e9]), 'uint32').data,
    Uint32Array.of(0, 0, 0xfffffffe, 0xffffffff),
  );
  assert.deepEqual(convert(hostTensor('int32', [1], [-1]), 'uint32').data, Uint32Array.of(0xffffffff));
  assert.deepEqual(convert(hostTensor('uint32', [1], [0x80000000]), 'int32').data, Int32Array.of(-0x80000000));
  assert.deepEqual(convert(hostTensor('float32', [3], [0, -0, NaN]), 'bool').data, Uint8Array.of(0, 0, 1));
  assert.deepEqual(convert(hostTensor('int32', [1], [-7]), 'float16').data, toHalf('float16', [-7]));
  const own = hostTensor('float32', [1], Float32Array.of(1));
  assert.notEqual(convert(own, 'float32').data, own.data);
  assert.throws(() => convert(own, 'int64' as never), /no dtype named int64/);
  assert.throws(
    () => convert({ dtype: 'float32', shape: [2], data: Float32Array.of(1) }, 'float64'),
    /\[2\] has 2 elements, got 1/,
  );
});
