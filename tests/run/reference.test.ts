// The reference executor: states, updates, guards that suppress updates, and `diagnose`.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { UserError } from '../../src/base/errors.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { ops } from '../../src/graph/ops/index.ts';
import { add } from '../../src/graph/ops/elementwise/add.ts';
import { div } from '../../src/graph/ops/elementwise/div.ts';
import { log } from '../../src/graph/ops/elementwise/log.ts';
import { sum } from '../../src/graph/ops/reduce/sum.ts';
import { ReferenceExecutor } from '../../src/run/reference.ts';

const pair = { dtype: 'float32', shape: [2] } as const;

/** A graph that swaps the states x and y unless `hold` is not 0; its output is x + y. */
function swapper(): { executor: ReferenceExecutor; step: (hold: number) => Promise<number[]> } {
  const b = new GraphBuilder(ops),
    x = b.newState('x', pair),
    y = b.newState('y', pair);
  const hold = b.input('input', 'hold', { dtype: 'int32', shape: [] });
  b.output('sum', add(x, y));
  b.update(x, y, hold);
  b.update(y, x, hold);
  const executor = new ReferenceExecutor(),
    loaded = executor.load(b.build());
  executor.setState('x', pair, Float32Array.of(1, 2));
  executor.setState('y', pair, Float32Array.of(10, 20));
  return {
    executor,
    step: async (h) => Array.from((await executor.run(loaded, { hold: Int32Array.of(h) }))['sum'].data),
  };
}

test('all updates take effect after the run, unless their guard suppresses them', async () => {
  const { executor, step } = swapper();
  assert.deepEqual(await step(1), [11, 22]);
  assert.deepEqual(Array.from(executor.peekState('x').data), [1, 2]);
  await step(0);
  assert.deepEqual(Array.from(executor.peekState('x').data), [10, 20]);
  assert.deepEqual(Array.from(executor.peekState('y').data), [1, 2]);
});

test('setState and getState keep float64 values exactly', async () => {
  const { executor } = swapper();
  executor.setState('x', pair, Float64Array.of(0.1, 1 / 3));
  assert.deepEqual((await executor.getState('x')).data, Float64Array.of(0.1, 1 / 3));
  assert.deepEqual(await executor.getParts([{ name: 'x', at: 1, count: 1 }]), [Float64Array.of(1 / 3)]);
  await assert.rejects(executor.getState('z'), UserError);
});

test('the number of rows of a bounded dimension is read in each run', async () => {
  const b = new GraphBuilder(ops),
    n = b.input('input', 'n', { dtype: 'int32', shape: [] });
  const x = b.input('input', 'x', { dtype: 'float32', shape: [{ kind: 'bounded', bound: 4, count: n.id }] });
  b.output('sum', sum(x));
  const executor = new ReferenceExecutor(),
    loaded = executor.load(b.build());
  const total = async (count: number): Promise<number> =>
    Number((await executor.run(loaded, { n: Int32Array.of(count), x: Float32Array.of(1, 2, 4, NaN) }))['sum'].data[0]);
  assert.equal(await total(3), 7);
  assert.equal(await total(0), 0);
});

test('diagnose names the first op whose result is not finite', async () => {
  const b = new GraphBuilder(ops),
    x = b.input('input', 'x', pair);
  b.scope = 'layer';
  b.output('y', sum(div(add(x, 1), log(x))));
  const executor = new ReferenceExecutor(),
    loaded = executor.load(b.build());
  assert.equal(await executor.diagnose(loaded, { x: Float32Array.of(2, 3) }), null);
  assert.equal(await executor.diagnose(loaded, { x: Float32Array.of(2, 1) }), 'div in layer');
  assert.equal(await executor.diagnose(loaded, { x: Float32Array.of(2, -1) }), 'log in layer');
});

test('inputs that are missing or have another type or size are refused', async () => {
  const b = new GraphBuilder(ops),
    x = b.input('input', 'x', pair);
  b.output('y', x);
  const executor = new ReferenceExecutor(),
    loaded = executor.load(b.build());
  await assert.rejects(async () => executor.run(loaded, {}), UserError);
  await assert.rejects(async () => executor.run(loaded, { x: Int32Array.of(1, 2) }), UserError);
  await assert.rejects(async () => executor.run(loaded, { x: Float32Array.of(1) }), UserError);
});

test('setPart replaces part of a state, and refuses a range outside the state or another dtype', () => {
  const { executor } = swapper();
  executor.setPart('x', 1, Float32Array.of(5));
  assert.deepEqual([...executor.peekState('x').data], [1, 5]);
  for (const [at, data] of [
    [1, Float32Array.of(1, 2)],
    [-1, Float32Array.of(1)],
    [0, Int32Array.of(1)],
  ] as const)
    assert.throws(() => {
      executor.setPart('x', at, data);
    }, UserError);
});
