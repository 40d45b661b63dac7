// `grad` gives gradients as tensors in a model: results are compared with values computed by hand, a loss that
// contains a gradient is trained, and errors name what is wrong.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { UserError } from '../../src/base/errors.ts';
import { hostTensor } from '../../src/base/tensor.ts';
import { grad } from '../../src/grad/grad.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { ops } from '../../src/graph/ops/index.ts';
import { add, cast, mul, oneHot, pow, stopGradient, sum } from '../../src/graph/ops/functions.ts';
import { attention } from '../../src/graph/ops/attention/attention.ts';
import { scalar, type Tensor } from '../../src/graph/tensor.ts';
import { Linear } from '../../src/nn/linear.ts';
import { sgd } from '../../src/optim/sgd.ts';
import { ReferenceExecutor } from '../../src/run/reference.ts';
import { compile } from '../../src/session/node.ts';
import { call, use } from '../../src/trace/trace.ts';

/** The result of `build` for the vector x. */
async function valuesAt(x: readonly number[], build: (x: Tensor) => Tensor): Promise<number[]> {
  const b = new GraphBuilder(ops);
  b.output('y', build(b.input('input', 'x', { dtype: 'float32', shape: [x.length] })));
  const executor = new ReferenceExecutor();
  const out = await executor.run(executor.load(b.build()), { x: Float64Array.from(x) });
  return Array.from(out['y'].data);
}

test('the gradient of a sum of cubes, and its Hessian times a vector', async () => {
  assert.deepEqual(await valuesAt([1, 2, -3], (x) => grad(sum(pow(x, 3)), [x])[0]), [3, 12, 27]);
  // H = diag(6 x), v = x: 6 x^2
  assert.deepEqual(
    await valuesAt([1, 2, -3], (x) => {
      const [g] = grad(sum(pow(x, 3)), [x]);
      return grad(sum(mul(g, stopGradient(x))), [x])[0];
    }),
    [6, 24, 54],
  );
});

test('the third derivative', async () => {
  const derivative = (y: Tensor, x: Tensor): Tensor => grad(sum(y), [x])[0];
  assert.deepEqual(await valuesAt([2], (x) => derivative(derivative(derivative(pow(x, 5), x), x), x)), [240]); // 60 x^2
});

test('the gradient to an intermediate value; 0 if the loss does not depend on the value', async () => {
  assert.deepEqual(
    await valuesAt([1, 2], (x) => {
      const y = mul(x, 3);
      return grad(sum(mul(y, y)), [y])[0];
    }),
    [6, 12],
  );
  assert.deepEqual(await valuesAt([1, 2], (x) => grad(sum(x), [mul(x, 3)])[0]), [0, 0]);
});

test('stopGradient makes its input a constant for differentiation', async () => {
  assert.deepEqual(await valuesAt([5], (x) => grad(sum(mul(x, stopGradient(x))), [x])[0]), [5]);
});

test('the gradient through integers is 0, without an error', async () => {
  assert.deepEqual(
    await valuesAt(
      [2],
      (x) => grad(sum(add(oneHot(cast(x, 'int32'), 1), mul(cast(cast(x, 'int32'), 'float32'), 9))), [x])[0],
    ),
    [0],
  );
});

test('an op without a gradient rule is an error that names the op and its module', () => {
  const b = new GraphBuilder(ops),
    q = b.input('input', 'q', { dtype: 'float32', shape: [1, 4, 1, 2] });
  b.scope = 'blocks.0';
  const [g] = grad(sum(attention(q, q, q, scalar(q, 0, 'int32'), { causal: true })), [q]);
  assert.equal(b.scope, 'blocks.0');
  assert.throws(
    () => grad(sum(g), [q]),
    (e) =>
      e instanceof UserError &&
      /attentionGrad.* in blocks\.0:grad has no gradient rule.*write it as matmul, softmax, matmul/s.test(e.message) &&
      /stopGradient/.test(e.message),
  );
});

test('grad refuses a loss that is not one float, a tensor that is not float, and a tensor of another graph', () => {
  const b = new GraphBuilder(ops),
    x = b.input('input', 'x', { dtype: 'float32', shape: [2] }),
    i = cast(x, 'int32');
  assert.throws(() => grad(x, [x]), /a loss must be one float number/);
  assert.throws(() => grad(sum(x), [i]), /no gradient to int32/);
  assert.throws(
    () => grad(sum(x), [new GraphBuilder(ops).input('input', 'x', { dtype: 'float32', shape: [2] })]),
    /another trace/,
  );
});

test('training with a penalty on the gradient to the input changes the weight as computed by hand', async () => {
  class Critic {
    readonly linear = new Linear(2, 1, { bias: false });
    /** The squared length of d(x w)^2 / dx = 2 (x w) w, summed over the batch. */
    forward(x: Tensor): Tensor {
      const y = call(this.linear, x); // [1, 1]
      const [g] = grad(sum(mul(y, y)), [x]);
      assert.deepEqual(use(x, this.linear.weight).shape, [2, 1]);
      return sum(mul(g, g));
    }
  }
  await using session = await compile(new Critic(), {
    loss: (output) => output,
    optimizer: sgd({ lr: 1 }),
    device: 'reference',
  });
  const weight = (): number[] =>
    Array.from(
      session
        .states()
        .find((s) => s.name === 'linear.weight')
        ?.read().data ?? [],
    );
  const [a, c] = weight(),
    [p, q] = [1, -2],
    y = p * a + q * c,
    n = a * a + c * c;
  await session.step({
    x: hostTensor('float32', [1, 2], Float32Array.of(p, q)),
    y: hostTensor('float32', [1], Float32Array.of(0)),
  });
  // loss 4 y^2 |w|^2, its gradient 8 y |w|^2 x + 8 y^2 w
  weight().forEach((w, i) => {
    const expected = [a, c][i] - (8 * y * n * [p, q][i] + 8 * y * y * [a, c][i]);
    assert.ok(Math.abs(w - expected) < 1e-5, `${w} is not ${expected}`);
  });
});
