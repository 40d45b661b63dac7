// resizeExperts with tensors of 16-bit checkpoints: noise is added to the numbers, not to their bit patterns.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { convert, numbersOf } from '../../../src/base/convert.ts';
import { hostTensor } from '../../../src/base/tensor.ts';
import { resizeExperts } from '../../../src/nn/moe/upcycle.ts';

for (const dtype of ['bfloat16', 'float16', 'float64'] as const) {
  test(`${dtype}: copies of experts get the noise of float32 copies, rounded`, () => {
    const weight = hostTensor('float32', [4, 2], [0.5, -1, 2, 0.25, -0.75, 1.5, 3, -2]),
      bank = hostTensor('float32', [2, 1, 1], [1, 2]);
    const of = (kind: typeof dtype | 'float32') =>
      resizeExperts(
        new Map([
          ['moe.router.weight', convert(weight, kind)],
          ['moe.experts.w1', convert(bank, kind)],
        ]),
        { moe: 'moe', from: [0, 1, 0, 1], noise: 0.1, seed: 3 },
      ).get('moe.router.weight');
    const [half, single] = [of(dtype), of('float32')];
    assert.ok(half && single);
    assert.deepEqual([half.dtype, half.shape], [dtype, [4, 4]]);
    numbersOf(half).forEach((x, i) => {
      assert.ok(Math.abs(x - single.data[i]) <= 2 ** -8 * Math.abs(single.data[i]), `${i}: ${x}, ${single.data[i]}`);
    });
  });
}
