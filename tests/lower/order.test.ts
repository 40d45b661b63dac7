// The order of kernels: every kernel runs after those that it depends on. An order that needs less memory is taken if
// it saves enough.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Stream } from '../../src/base/random.ts';
import { layerGraph, layerOf, type LayerWork } from '../../src/bench/layer-work.ts';
import { orderTasks } from '../../src/lower/order.ts';
import type { Task } from '../../src/lower/task.ts';
import { sgd } from '../../src/optim/sgd.ts';
import { compileGraph } from '../../src/pipeline.ts';

const task = (
  of: string,
  before: string[],
  makes: number[],
  reads: number[],
  overwrites: number[] = [],
): Task<string> => ({ of, before, makes, reads, overwrites });
const bytes =
  (sizes: readonly number[]) =>
  (v: number): number =>
    sizes[v];

test('the readers of a large value run before the next large value is made', () => {
  // a makes 0 (100 bytes), which b and d read; c makes 2 (100 bytes) for e. As written, 0 and 2 are alive together.
  const tasks = [
    task('a', [], [0], []),
    task('b', ['a'], [1], [0]),
    task('c', [], [2], []),
    task('d', ['a'], [3], [0]),
    task('e', ['c'], [4], [2]),
  ];
  const { order, peak } = orderTasks(tasks, bytes([100, 1, 100, 1, 1]));
  assert.equal(peak, 101, 'a value without readers takes memory only while its kernel runs');
  assert.ok(order.indexOf('d') < order.indexOf('c') || order.indexOf('e') < order.indexOf('a'), order.join());
});

test("a value that its reader overwrites counts once; without savings the graph's order stays", () => {
  const chain = [task('a', [], [0], []), task('b', ['a'], [1], [0], [0]), task('c', ['b'], [2], [1], [1])];
  assert.deepEqual(orderTasks(chain, bytes([8, 8, 8])), { order: ['a', 'b', 'c'], peak: 8 });
  assert.equal(
    orderTasks(
      chain.map((t) => ({ ...t, overwrites: [] })),
      bytes([8, 8, 8]),
    ).peak,
    16,
  );
});

test('a kernel with large inputs and a small output runs as soon as its dependencies allow it', () => {
  const big = 100_000,
    order = (tasks: Task<string>[]): string => orderTasks(tasks, bytes([big, big, 8, 8, big])).order.join('');
  // s sums value 0, so it should run while value 0 is in the cache. u reads only 8 bytes.
  const tasks = [
    task('a', [], [0], []),
    task('b', ['a'], [1], [0]),
    task('c', ['b'], [4], [1]),
    task('s', ['a'], [2], [0]),
    task('u', ['s'], [3], [2]),
  ];
  assert.equal(order(tasks), 'asbcu');
  assert.equal(order(tasks.map((t) => (t.of === 's' ? { ...t, before: ['a', 'b'] } : t))), 'abscu');
});

test("random graphs: each kernel runs once, after its inputs; the peak is at most that of the graph's order", () => {
  const random = new Stream(1, 'order');
  for (let n = 0; n < 50; n++) {
    const size = 2 + (n % 30),
      pick = (i: number, below: number): number => Math.floor(random.uniform(n, i) * below);
    const tasks = Array.from({ length: size }, (_, i): Task<string> => {
      const reads = i === 0 ? [] : [...new Set([pick(4 * i, i), pick(4 * i + 1, i)])];
      return task(String(i), reads.map(String), [i], reads, reads.slice(0, 1));
    });
    const sizes = tasks.map((_, i) => 1 + pick(1000 + i, 9)),
      { order, peak } = orderTasks(tasks, bytes(sizes));
    assert.deepEqual([...order].sort(), tasks.map((t) => t.of).sort());
    for (const t of tasks) for (const b of t.before) assert.ok(order.indexOf(b) < order.indexOf(t.of));
    // If each task waits for the one before it, the graph's order is the only one.
    const asWritten = orderTasks(
      tasks.map((t, i) => ({ ...t, before: i === 0 ? [] : [String(i - 1)] })),
      bytes(sizes),
    ).peak;
    assert.ok(peak <= asWritten && peak >= Math.max(...sizes), `${peak} ${asWritten}`);
  }
});

const WORK: LayerWork = {
  tokens: 512,
  dModel: 32,
  dFf: 128,
  experts: 4,
  topK: 2,
  capacity: 'dropless',
  overflow: 'drop',
  dispatch: 'ragged',
  skew: 0,
  activation: 'relu',
  optimizer: 'sgd',
  eager: true,
  pass: 'train',
};
const arenaOf = (work: LayerWork): { arena: number; fused: boolean } => {
  const { program } = compileGraph(layerGraph(layerOf(work), work, sgd({ lr: 1e-3, eager: work.eager })));
  return {
    arena: program.slabs.arena,
    fused: program.steps.some((s) => s.ops.includes('groupedOuter') && s.ops.includes('sub')),
  };
};

test('a layer with eager updates: the update is fused into the gradient product only if this takes less memory', () => {
  const hidden = WORK.tokens * WORK.topK * WORK.dFf * 4,
    few = arenaOf(WORK),
    many = arenaOf({ ...WORK, experts: 64 });
  assert.equal(few.fused, false);
  // The arena holds the hidden layer (its gradient shares the memory), the gradient of one bank of weights, and
  // little else.
  assert.ok(few.arena < 1.5 * hidden + WORK.experts * WORK.dModel * WORK.dFf * 4, `${few.arena} of ${hidden}`);
  assert.equal(many.fused, true);
  assert.ok(many.arena < 2.5 * hidden, `${many.arena} of ${hidden}`);
});
