// Differentiation of whole graphs: values that are used more than once or not at all, ops with several results.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { UserError } from '../../src/base/errors.ts';
import { differentiate, gradients } from '../../src/grad/differentiate.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import type { Graph } from '../../src/graph/graph.ts';
import { ops } from '../../src/graph/ops/index.ts';
import { add } from '../../src/graph/ops/elementwise/add.ts';
import { cast } from '../../src/graph/ops/elementwise/cast.ts';
import { exp } from '../../src/graph/ops/elementwise/exp.ts';
import { matmul } from '../../src/graph/ops/matmul/matmul.ts';
import { mul } from '../../src/graph/ops/elementwise/mul.ts';
import { sum } from '../../src/graph/ops/reduce/sum.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { verifyGraph } from '../../src/graph/verify.ts';
import { ReferenceExecutor } from '../../src/run/reference.ts';

const scalar = { dtype: 'float32', shape: [] } as const;

function graphOf(build: (b: GraphBuilder, state: (name: string) => Tensor) => Tensor): Graph {
  const b = new GraphBuilder(ops),
    made = new Map<string, Tensor>();
  const total = build(b, (name) => {
    const found = made.get(name) ?? b.newState(name, scalar);
    made.set(name, found);
    return found;
  });
  b.output('total', total);
  return b.build();
}

/** The gradients of the output `total` to the states, at these values of the states. */
async function gradientsAt(graph: Graph, values: Readonly<Record<string, number>>): Promise<number[]> {
  const names = Object.keys(values),
    full = verifyGraph(differentiate(graph, ops, 'total', names), ops, 'test');
  const executor = new ReferenceExecutor();
  for (const name of names) executor.setState(name, scalar, Float64Array.of(values[name]));
  const out = await executor.run(executor.load(full), {});
  return names.map((name) => Number(out[`grad/${name}`].data[0]));
}

test('a value that is used in several places gets the sum of its gradients', async () => {
  // x * x * y + x: 2 x y + 1, x^2
  const graph = graphOf((_, s) => add(mul(mul(s('x'), s('x')), s('y')), s('x')));
  assert.deepEqual(await gradientsAt(graph, { x: 3, y: 5 }), [31, 9]);
});

test('a matrix that is used twice gets the sum of both gradients', () => {
  const b = new GraphBuilder(ops);
  const w = b.newState('w', { dtype: 'float32', shape: [4, 4] }),
    x = b.input('input', 'x', { dtype: 'float32', shape: [2, 4] });
  const [g] = gradients(b, sum(matmul(matmul(x, w), w, { transB: true })), [w]);
  assert.ok(g);
  assert.equal(b.nodes.find((n) => n.outputs.includes(g.id))?.op, 'add');
});

test('a parameter that the loss does not depend on has gradient 0', async () => {
  const graph = graphOf((_, s) => {
    mul(s('unused'), 2);
    return mul(s('x'), 4);
  });
  assert.deepEqual(await gradientsAt(graph, { x: 1, unused: 7 }), [4, 0]);
});

test('gradients gives null where the loss does not depend on a value', () => {
  const b = new GraphBuilder(ops),
    x = b.newState('x', scalar),
    y = b.newState('y', scalar);
  assert.equal(gradients(b, mul(x, x), [y])[0], null);
});

test('the loss itself has gradient 1', async () => {
  assert.deepEqual(
    await gradientsAt(
      graphOf((_, s) => s('x')),
      { x: 2 },
    ),
    [1],
  );
});

test('no gradient flows through integers', async () => {
  const graph = graphOf((_, s) => mul(cast(cast(s('x'), 'int32'), 'float32'), s('y')));
  assert.deepEqual(await gradientsAt(graph, { x: 2.7, y: 3 }), [0, 2]);
});

test('nodes that the loss does not need are not differentiated', () => {
  const b = new GraphBuilder(ops),
    x = b.newState('x', scalar),
    loss = mul(x, 3);
  mul(mul(x, x), x);
  const before = b.nodes.length;
  gradients(b, loss, [x]);
  assert.ok(b.nodes.length <= before + 2, 'only the constant 1 and one product are added');
});

test('differentiate does not change the given graph', () => {
  const graph = graphOf((_, s) => mul(s('x'), s('x'))),
    before = JSON.stringify(graph);
  differentiate(graph, ops, 'total', ['x']);
  assert.equal(JSON.stringify(graph), before);
});

test('a loss must be one float number', () => {
  const b = new GraphBuilder(ops),
    x = b.newState('x', { dtype: 'float32', shape: [2] });
  assert.throws(() => gradients(b, x, [x]), UserError);
  assert.throws(() => gradients(b, cast(sum(x), 'int32'), [x]), UserError);
});

test('a gradient reads no float64 that its value was widened to after it was rounded', () => {
  const builder = new GraphBuilder(ops),
    x = builder.newState('x', { dtype: 'float32', shape: [3] }),
    wide = cast(cast(exp(x), 'bfloat16'), 'float64');
  builder.output('loss', sum(wide));
  verifyGraph(differentiate(builder.build(), ops, 'loss', ['x']), ops, 'differentiate');
});
