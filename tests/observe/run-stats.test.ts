// RunStats: which statistics rules see, and after how many steps they see them.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hostTensor } from '../../src/base/tensor.ts';
import { quantile } from '../../src/observe/quantile.ts';
import { RunStats } from '../../src/observe/run-stats.ts';

const stepStats = (step: number, load: readonly number[], more: Record<string, number> = {}) => ({
  step,
  loss: step / 10,
  ms: step,
  stats: {
    'a.moe/load': hostTensor('int32', [load.length], Int32Array.from(load)),
    ...Object.fromEntries(
      Object.entries(more).map(([name, v]) => [`a.moe/${name}`, hostTensor('float32', [], Float32Array.of(v))]),
    ),
  },
});

test('rules see a step two steps later; averages and quantiles are over the steps that they see', () => {
  const stats = new RunStats();
  stats.show(stepStats(1, [4, 0], { dropped: 1, secondGateWeight: 0.25 }));
  assert.equal(stats.step, 0);
  assert.throws(() => stats.layer('a.moe'), /no layer at "a.moe"/);
  stats.show(stepStats(2, [0, 4]));
  assert.equal(stats.step, 1);
  let layer = stats.layer('a.moe');
  assert.deepEqual([layer.load, layer.loadEma, layer.dropped, layer.secondGateWeight], [[4, 0], [4, 0], 1, 0.25]);
  stats.show(stepStats(3, [2, 2]));
  layer = stats.layer('a.moe');
  assert.deepEqual(layer.load, [0, 4]);
  assert.ok(layer.loadEma.every((v, e) => Math.abs(v - [3.8, 0.2][e]) < 1e-12));
  assert.deepEqual([layer.quantile(0.5), layer.quantile(1), layer.droppedTotal], [[2, 2], [4, 4], 1]);
  assert.ok(Number.isNaN(layer.secondGateWeight));
  assert.throws(() => stats.layer('b'), /known: a.moe/);
});

test('the state survives JSON, including NaN', () => {
  const stats = new RunStats(),
    copy = new RunStats();
  for (let i = 1; i < 9; i++) stats.show(stepStats(i, [i, 9 - i]));
  copy.restore(JSON.parse(JSON.stringify(stats.state())) as ReturnType<RunStats['state']>);
  for (const s of [stats, copy]) s.show(stepStats(9, [1, 1]));
  assert.deepEqual(copy.state(), stats.state());
  assert.deepEqual(copy.layer('a.moe').quantile(0.9), stats.layer('a.moe').quantile(0.9));
});

test('quantiles are interpolated between the nearest values', () => {
  assert.deepEqual(
    [quantile([3, 1, 2], 0), quantile([3, 1, 2], 0.5), quantile([0, 10], 0.95), quantile([7], 0.3)],
    [1, 2, 9.5, 7],
  );
  assert.ok(Number.isNaN(quantile([], 0.5)));
});

test('a batch in parts: quantiles use the loads of each part, dropped choices are summed over parts', () => {
  const stats = new RunStats(),
    part = (load: readonly number[], dropped: number) => stepStats(0, load, { dropped }).stats;
  stats.show({ ...stepStats(1, [9, 9]), parts: [part([4, 0], 1), part([1, 3], 2)] });
  stats.show({ ...stepStats(2, [9, 9]), parts: [part([2, 2], 5), part([0, 4], 0)] });
  stats.show(stepStats(3, [1, 1]));
  const layer = stats.layer('a.moe');
  assert.deepEqual(
    [layer.load, layer.dropped, layer.droppedTotal, layer.quantile(1), layer.quantile(0)],
    [[0, 4], 5, 8, [4, 4], [0, 0]],
  );
});
