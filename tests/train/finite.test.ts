// Tests that a checkpoint of training is written only if all its trained values are finite.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { convert } from '../../src/base/convert.ts';
import { hostTensor } from '../../src/base/tensor.ts';
import type { CheckpointContent } from '../../src/io/checkpoint.ts';
import { finiteContent, firstNotFinite } from '../../src/train/finite.ts';

const DTYPES = ['float64', 'float32', 'bfloat16', 'float16', 'int32'] as const;

function content(values: readonly number[], dtype: (typeof DTYPES)[number], name = 'w'): CheckpointContent {
  const tensor =
    dtype === 'int32'
      ? hostTensor(
          'int32',
          [values.length],
          values.map((x) => (Number.isFinite(x) ? Math.trunc(x) : -1)),
        )
      : convert(hostTensor('float64', [values.length], values), dtype);
  return {
    tensors: [{ name, dtype, shape: [values.length], data: () => tensor.data }],
    meta: { step: 1, seed: 0, config: null, optimizer: null, data: null },
  };
}

test('values that are not finite are counted for every dtype, and the error names their tensor', async () => {
  const value = fc.oneof(
    { weight: 9, arbitrary: fc.double({ min: -6e4, max: 6e4, noNaN: true }) },
    fc.constantFrom(NaN, Infinity, -Infinity),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(value, { maxLength: 50 }), fc.constantFrom(...DTYPES), async (values, dtype) => {
      const made = content(values, dtype),
        bad = dtype === 'int32' ? 0 : values.filter((x) => !Number.isFinite(x)).length;
      const found = await firstNotFinite(made, () => true),
        [tensor] = finiteContent(made, (name) => name === 'w').tensors;
      if (bad === 0) {
        assert.equal(found, null);
        assert.equal(await tensor.data(), await made.tensors[0].data());
      } else {
        assert.equal(found?.message, `${bad} of ${values.length} values of w are not finite`);
        await assert.rejects(Promise.resolve(tensor.data()), { message: found?.message });
      }
      assert.equal(await firstNotFinite(made, () => false), null, 'a mask that steps only read may contain infinities');
    }),
  );
});
