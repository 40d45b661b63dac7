// The arithmetic of the interpreter: multiply-adds are rounded once.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { exactFma, fma32, fma64, nearest, toInt32, toUint32 } from './numbers.ts';

test('a multiply-add of float32 is rounded once', () => {
  // The exact sum lies just below the middle of two float32 numbers; as a float64 it lies in the middle.
  const [a, b, c] = [2 ** -12 * (1 + 2 ** -20), 2 ** -12 * (1 - 2 ** -20), 1 + 2 ** -23];
  assert.equal(Math.fround(a * b + c), 1 + 2 ** -22);
  assert.equal(fma32(a, b, c), 1 + 2 ** -23);
  assert.equal(fma32(-a, b, -c), -(1 + 2 ** -23));
  assert.equal(fma32(2 ** -100, 2 ** -60, 0), 0);
  assert.ok(Object.is(fma32(2 ** -100, -(2 ** -60), 0), -0));
  assert.ok(Object.is(fma32(1, -1, 1), 0));
  assert.equal(fma32(3e38, 3e38, 0), Infinity);
  assert.ok(Number.isNaN(fma32(Infinity, 0, 1)));
});

test('a multiply-add of float64 is rounded once', () => {
  assert.equal(fma64(1 + 2 ** -30, 1 + 2 ** -30, -(1 + 2 ** -29)), 2 ** -60);
  assert.equal(exactFma(1 + 2 ** -30, 1 + 2 ** -30, -(1 + 2 ** -29)), 2 ** -60);
  assert.equal(fma64(5e-324, 0.5, 0), 0);
  assert.equal(fma64(5e-324, 0.75, 0), 5e-324);
  assert.equal(fma64(2 ** 1000, 2 ** 1000, 0), Infinity);
  assert.equal(fma64(2 ** 600, 2 ** 600, -Infinity), -Infinity);
  const size = fc.integer({ min: -1070, max: 1020 }),
    near = fc.integer({ min: -60, max: 60 }),
    part = fc.double({ min: -1, max: 1, noNaN: true });
  const check = ([a, i]: [number, number], [b, j]: [number, number], [c, k]: [number, number]): void => {
    const values = [a * 2 ** i, b * 2 ** j, c * 2 ** k] as const;
    assert.ok(Object.is(fma64(...values), exactFma(...values)), values.join(' '));
  };
  fc.assert(fc.property(fc.tuple(part, near), fc.tuple(part, near), fc.tuple(part, near), check), { numRuns: 3000 });
  fc.assert(fc.property(fc.tuple(part, size), fc.tuple(part, size), fc.tuple(part, size), check), { numRuns: 1000 });
  // Sums that nearly cancel.
  fc.assert(
    fc.property(part, part, part, (a, b, e) => {
      check([a, 0], [b, 0], [-(a * b) * (1 + Math.trunc(e * 4) * 2 ** -52), 0]);
    }),
    { numRuns: 1000 },
  );
});

test('conversions', () => {
  assert.deepEqual([2.5, 3.5, -0.5, 0.5, 1e300, -2.5].map(nearest), [2, 4, -0, 0, 1e300, -2]);
  assert.deepEqual([NaN, 1e10, -1e10, -1.9, 1.9].map(toInt32), [0, 2147483647, -2147483648, -1, 1]);
  assert.deepEqual([NaN, 1e10, -1e10, 1.9].map(toUint32), [0, 4294967295, 0, 1]);
});
