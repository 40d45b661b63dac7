// Which dimension of a value goes over samples, which sums are cut into parts, and the norm of a bank of experts.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { WasmDevice } from '../../src/device/wasm/wasm.ts';
import { divided } from '../../src/base/shape.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import type { Graph, Node } from '../../src/graph/graph.ts';
import { add } from '../../src/graph/ops/elementwise/add.ts';
import { mul } from '../../src/graph/ops/elementwise/mul.ts';
import { ops } from '../../src/graph/ops/index.ts';
import { matmul } from '../../src/graph/ops/matmul/matmul.ts';
import { softmax } from '../../src/graph/ops/reduce/softmax.ts';
import { sum } from '../../src/graph/ops/reduce/sum.ts';
import { concat } from '../../src/graph/ops/shape/concat.ts';
import { expand } from '../../src/graph/ops/shape/expand.ts';
import { flip } from '../../src/graph/ops/shape/flip.ts';
import { gather } from '../../src/graph/ops/shape/gather.ts';
import { reshape } from '../../src/graph/ops/shape/reshape.ts';
import { transpose } from '../../src/graph/ops/shape/transpose.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { differentiate } from '../../src/grad/differentiate.ts';
import { sgd } from '../../src/optim/sgd.ts';
import { sumInParts } from '../../src/passes/parts.ts';
import { findSamples } from '../../src/passes/samples.ts';
import { compileGraph, loadProgram, trainingGraph } from '../../src/pipeline.ts';
import { ProgramExecutor } from '../../src/run/program.ts';

test('samples are followed through ops that keep them', () => {
  const b = new GraphBuilder(ops),
    x = b.input('input', 'x', divided({ dtype: 'float32', shape: [6, 4, 2] }, 'batch')),
    w = b.newState('w', { dtype: 'float32', shape: [2, 5] }),
    ids = b.input('input', 'ids', divided({ dtype: 'int32', shape: [6] }, 'batch')),
    rows = reshape(x, [24, 2]);
  const wanted: readonly [Tensor, string][] = [
    [x, '0 1'],
    [w, 'none'],
    [rows, '0 4'],
    [reshape(x, [6, 8]), '0 1'],
    [reshape(x, [3, 16]), 'none'], // no sample begins a row of each
    [reshape(x, [1, 6, 8]), '1 1'],
    [reshape(x, [48]), '0 8'],
    [transpose(x, [2, 0, 1]), '1 1'],
    [reshape(transpose(x, [2, 0, 1]), [2, 24]), '1 4'],
    [reshape(transpose(x, [1, 2, 0]), [48]), 'none'],
    [matmul(rows, w), '0 4'],
    [matmul(rows, matmul(rows, w), { transA: true }), 'none'],
    [matmul(w, rows, { transA: true, transB: true }), '1 4'],
    [softmax(rows), '0 4'],
    [sum(x, [1]), '0 1'],
    [sum(transpose(x, [2, 0, 1]), [0]), '0 1'],
    [sum(x, [0]), 'none'],
    [expand(sum(x, [0]), x, [0]), '0 1'],
    [add(sum(x, [0]), x), '0 1'],
    [mul(x, reshape(sum(x, [0]), [1, 4, 2])), '0 1'],
    [flip(x, 1), '0 1'],
    [flip(x, 0), 'none'],
    [concat([x, x], 0), 'none'],
    [concat([x, x], 2), '0 1'],
    [gather(w, ids), 'none'], // below: ids are no table, and their order is that of samples
  ];
  const found = findSamples(b.build(), ops);
  for (const [at, [t, text]] of wanted.entries()) {
    const own = found[t.id],
      got = own ? `${own.dim} ${own.each}` : 'none';
    assert.equal(got, at === wanted.length - 1 ? '0 1' : text, `value ${at}: ${t.toString()}`);
  }
});

/** A loss over samples of a shared matrix, a shared bias, a bank, a scale of all, and a sum of the model itself. */
function model(): { readonly graph: Graph; readonly names: string[]; readonly forward: number } {
  const b = new GraphBuilder(ops),
    x = b.input('input', 'x', divided({ dtype: 'float32', shape: [6, 4] }, 'batch')),
    w = b.newState('w', { dtype: 'float32', shape: [4, 3] }),
    bias = b.newState('bias', { dtype: 'float32', shape: [3] }),
    bank = b.newState('bank', divided({ dtype: 'float32', shape: [2, 4, 3] }, 'expert')),
    scale = b.newState('scale', { dtype: 'float32', shape: [] });
  const both = expand(x, b.input('input', 'like', { dtype: 'float32', shape: [2, 6, 4] }), [0]),
    y = add(matmul(x, w), bias),
    z = add(y, sum(matmul(both, bank), [0])),
    centred = add(z, mul(sum(z, [0]), -1 / 6));
  b.output('total', sum(mul(mul(centred, centred), scale)));
  const graph = b.build(),
    names = ['w', 'bias', 'bank', 'scale'];
  return { graph: differentiate(graph, ops, 'total', names), names, forward: graph.nodes.length };
}

/** The nodes from which the gradient of a parameter follows at once, through reshapes. */
function makerOf(graph: Graph, name: string): Node {
  let value = graph.outputs.find((o) => o.name === `grad/${name}`)?.value;
  for (;;) {
    const node = graph.nodes.find((n) => n.outputs.includes(value ?? -1));
    assert.ok(node, name);
    if (node.op !== 'reshape') return node;
    [value] = node.inputs;
  }
}

test('sums over samples into shared parameters are cut, and no others', () => {
  const { graph, names, forward } = model(),
    cut = sumInParts(graph, ops, forward, 8);
  const parts = Object.fromEntries(names.map((name) => [name, makerOf(cut, name).attrs['parts'] ?? null]));
  assert.deepEqual({ ...parts, scale: null }, { w: 8, bias: 8, bank: null, scale: null });
  // All axes are summed: samples first, in parts.
  const last = makerOf(cut, 'scale'),
    first = cut.nodes.find((n) => n.outputs.includes(last.inputs[0]));
  assert.deepEqual([last.attrs['axes'], first?.attrs], [[0], { axes: [0], parts: 8, sample: 1 }]);
  assert.deepEqual(
    cut.nodes.slice(0, forward).filter((n) => n.attrs['parts'] !== undefined),
    [],
    'the model keeps its sums',
  );
  assert.equal(sumInParts(graph, ops, forward, 1), graph);
});

test('the norm of a bank is summed expert by expert', async () => {
  const b = new GraphBuilder(ops),
    bank = b.newState('bank', divided({ dtype: 'float32', shape: [7, 43, 5] }, 'expert')),
    g = b.input('input', 'g', { dtype: 'float32', shape: [7, 43, 5] }),
    squares = mul(g, g);
  b.output('total', sum(mul(bank, g)));
  b.output('squares', sum(squares, [1, 2]));
  const device = await WasmDevice.open(1);
  const executor = new ProgramExecutor(device);
  executor.setState('bank', bank.type, null);
  const run = async (parts: number, data: Float32Array): Promise<{ norm: number; own: number[] }> => {
    const graph = trainingGraph(b.build(), sgd({ lr: 1 }), ['bank'], { parts }),
      loaded = await loadProgram(executor, compileGraph(graph, device.target)),
      out = await executor.run(loaded, { lr: Float32Array.of(1), commit: Int32Array.of(1), g: data });
    return { norm: out['grad_norm'].data[0], own: Array.from(out['squares'].data) };
  };
  let moved = 0;
  for (let n = 1; n < 9; n++) {
    const data = Float32Array.from({ length: 1505 }, (_, i) => Math.sin(i * i * n)),
      { norm, own } = await run(8, data);
    assert.equal(norm, Math.fround(Math.sqrt(own.reduce((a, v) => Math.fround(a + v), 0))));
    if ((await run(1, data)).norm !== norm) moved++;
  }
  assert.ok(moved > 0, 'the sum of all elements at once has other bits');
  await device.close();
});
