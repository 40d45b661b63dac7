// Tests host tensors: which data is used without a copy, which is converted, and which is refused.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { DType } from '../../src/base/dtype.ts';
import { UserError } from '../../src/base/errors.ts';
import { hostTensor, type HostValues } from '../../src/base/tensor.ts';

const refused = (dtype: DType, values: unknown, message: RegExp): void => {
  const list = values as HostValues;
  assert.throws(
    () => hostTensor(dtype, [list.length], list),
    (e) => e instanceof UserError && message.test(e.message),
    `${dtype} ${String(values)}`,
  );
};

test('a typed array of the right kind is used without a copy, others are converted', () => {
  const own = Float32Array.of(1, 2);
  assert.equal(hostTensor('float32', [2], own).data, own);
  assert.deepEqual(hostTensor('float32', [2], Int8Array.of(-1, 2)).data, Float32Array.of(-1, 2));
  assert.deepEqual(hostTensor('float32', [1], Float64Array.of(1 / 3)).data, Float32Array.of(1 / 3));
  assert.deepEqual(hostTensor('int32', [2], BigInt64Array.of(1n, -2n)).data, Int32Array.of(1, -2));
  assert.deepEqual(hostTensor('uint32', [2], [1n, 4294967295]).data, Uint32Array.of(1, 4294967295));
  assert.deepEqual(hostTensor('int32', [2], Uint16Array.of(7, 65535)).data, Int32Array.of(7, 65535));
  assert.deepEqual(hostTensor('bool', [4], [true, false, 1, 0]).data, Uint8Array.of(1, 0, 1, 0));
  assert.deepEqual(hostTensor('bfloat16', [2], [1, -2]).data, Uint16Array.of(0x3f80, 0xc000));
  assert.deepEqual(hostTensor('float16', [3], [1, NaN, -Infinity]).data, Uint16Array.of(0x3c00, 0x7e00, 0xfc00));
  assert.deepEqual(
    hostTensor('float32', [4], [NaN, Infinity, -Infinity, -0]).data,
    Float32Array.of(NaN, Infinity, -Infinity, -0),
  );
  assert.deepEqual(
    hostTensor('float32', [2], [3.4028235677973362e38, 1e-50]).data,
    Float32Array.of(3.4028234663852886e38, 0),
  );
  assert.deepEqual(hostTensor('float32', [0, 3], []).data, new Float32Array(0));
});

test('values that the dtype does not have are refused; the error has the index of the first one', () => {
  refused('int32', [0, NaN], /element 1 of an int32 tensor is NaN/);
  refused('int32', [3e9], /element 0 of an int32 tensor is 3000000000/);
  refused('int32', [1.5], /element 0 of an int32 tensor is 1.5/);
  refused('int32', Float32Array.of(Infinity), /is Infinity/);
  refused('int32', Uint32Array.of(2 ** 31), /is 2147483648/);
  refused('int32', BigInt64Array.of(2n ** 40n), /is 1099511627776n/);
  refused('uint32', [-1], /is -1/);
  refused('uint32', Int32Array.of(-1), /is -1/);
  refused('bool', [0, 2], /element 1 of a bool tensor is 2/);
  refused('bool', Uint8Array.of(0, 1, 7), /element 2 of a bool tensor is 7/);
  refused('bool', [0.5], /is 0.5/);
  refused('float32', [1e39], /is 1e\+39/);
  refused('float32', Float64Array.of(0, -3.5e38), /element 1/);
  refused('float32', [1n], /is 1n\n.*Number\(value\)/);
  refused('float32', [true], /is true/);
  refused('float16', [65520], /is 65520/);
  refused('bfloat16', [3.4e38], /is 3.4e\+38/);
  refused(
    'float32',
    [
      [1, 2],
      [3, 4],
    ],
    /element 0 of a float32 tensor is a list\n.*flat/,
  );
  refused('float32', ['1'], /is "1"/);
  refused('float32', [undefined], /is undefined/);
  refused('float32', [null], /is null/);
  refused('float32', [Float32Array.of(1)], /is Float32Array/);
  refused('float32', Uint16Array.of(0x3f80), /Uint16Array[^]*convert\(/);
  refused('float64', new Uint16Array(1), /Uint16Array/);
  for (const values of [undefined, null, 5, '12', new ArrayBuffer(8), {}]) {
    assert.throws(
      () => hostTensor('float32', [2], values as never),
      (e) => e instanceof UserError && /the values of a float32 tensor/.test(e.message),
    );
  }
});

test('for a nested list, the error says so before it checks the number of values', () => {
  assert.throws(
    () =>
      hostTensor('float32', [2, 2], [
        [1, 2],
        [3, 4],
      ] as never),
    /element 0 of a float32 tensor is a list\n.*rows\.flat\(\)/,
  );
});

test('a shape is a list of whole numbers of at least 0', () => {
  for (const shape of [
    [-1, -4],
    [1.5, 2],
    [NaN],
    [Infinity],
    [2 ** 53],
    [2 ** 30, 2 ** 30],
    ['2'],
    [null],
    4,
    '4',
    undefined,
    Int32Array.of(4),
  ]) {
    assert.throws(
      () => hostTensor('float32', shape as never, [1, 2, 3, 4]),
      (e) => e instanceof UserError && /no shape of a float32 tensor/.test(e.message),
      String(shape),
    );
  }
  assert.throws(() => hostTensor('float32', [2, 3], [1, 2]), /shape \[2, 3\] has 6 elements, got 2/);
  assert.throws(() => hostTensor('float64', [], []), /shape \[\] has 1 elements, got 0/);
});

test('an accepted value is stored as it is, or as the nearest float', () => {
  const nearest: Partial<Record<DType, (x: number) => number>> = {
    float32: Math.fround,
    float64: (x) => x,
    int32: (x) => x,
    uint32: (x) => x,
  };
  const numbers = fc.oneof(fc.double(), fc.integer({ min: -(2 ** 33), max: 2 ** 33 }), fc.float());
  fc.assert(
    fc.property(
      fc.constantFrom<DType>('float64', 'float32', 'int32', 'uint32'),
      fc.array(numbers, { maxLength: 4 }),
      (dtype, values) => {
        let data: HostValues;
        try {
          data = hostTensor(dtype, [values.length], values).data;
        } catch (error) {
          assert.ok(error instanceof UserError);
          return;
        }
        values.forEach((x, i) => {
          const want = nearest[dtype]?.(x);
          assert.ok(
            want !== undefined &&
              (Object.is(data[i], want) || (data[i] === 0 && x === 0)) &&
              (Number.isFinite(data[i]) || !Number.isFinite(x)),
            `${dtype} ${x}: ${String(data[i])}`,
          );
        });
      },
    ),
  );
});
