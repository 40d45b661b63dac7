// Lowering under the limits of a device: kernels have no more buffers than it allows and write nothing in place,
// results keep their bits, and what cannot be lowered is refused by name.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { UserError } from '../../src/base/errors.ts';
import { NativeDevice } from '../../src/device/native/native.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import type { Limits } from '../../src/graph/limits.ts';
import { ops } from '../../src/graph/ops/index.ts';
import { concat } from '../../src/graph/ops/shape/concat.ts';
import { add } from '../../src/graph/ops/elementwise/add.ts';
import { compileGraph, loadProgram, type Compiled } from '../../src/pipeline.ts';
import { overlap } from '../../src/plan/overlap.ts';
import { ProgramExecutor } from '../../src/run/program.ts';
import { NATIVE } from '../../src/schedule/target.ts';
import { compile } from '../../src/session/node.ts';
import { crossEntropy } from '../../src/nn/loss.ts';
import { adamW } from '../../src/optim/adam.ts';
import { randomGraph, type RandomGraph } from '../support/random-graph.ts';
import { noCompiler, toyBatch, toyLM } from '../support/toy.ts';

const device = noCompiler ? null : await NativeDevice.open(2);
after(() => device?.close());

const under = (graph: RandomGraph['graph'], limits: Partial<Limits>): Compiled =>
  compileGraph(graph, { ...NATIVE, limits: { ...NATIVE.limits, ...limits } });

const mostBuffers = ({ kernels }: Compiled): number => Math.max(...kernels.map((k) => k.kernel.buffers.length));

/** Steps that write memory which they also use through another buffer. */
const inPlaceSteps = ({ program: { steps, tensors } }: Compiled): number =>
  steps.filter((s) =>
    s.buffers.some(
      (a, i) =>
        s.writes[i] && s.buffers.some((b, j) => j !== i && tensors[a].bytes > 0 && overlap(tensors[a], tensors[b])),
    ),
  ).length;

async function results(compiled: Compiled, { graph, inputs, states }: RandomGraph): Promise<Map<string, unknown>> {
  assert.ok(device);
  const executor = new ProgramExecutor(device),
    found = new Map<string, unknown>();
  for (const i of graph.inputs) if (i.kind === 'state') executor.setState(i.name, graph.types[i.value], states[i.name]);
  const loaded = await loadProgram(executor, compiled);
  for (const commit of [1, 0, 1]) {
    const out = await executor.run(loaded, { ...inputs, commit: Int32Array.of(commit) });
    found.set(
      `${commit}`,
      Object.values(out).map((t) => t.data),
    );
  }
  for (const name of Object.keys(states)) found.set(name, executor.peekState(name).data);
  executor.release(loaded);
  executor.removeStates(Object.keys(states));
  return found;
}

test('random graphs under limits keep their bits', { skip: noCompiler }, async () => {
  let smaller = 0,
    apart = 0;
  for (let seed = 0; seed < 16; seed++) {
    const g = randomGraph(seed, 12 + 2 * seed),
      free = under(g.graph, {}),
      buffers = 3 + (seed % 2),
      tight = under(g.graph, { buffers, inPlace: false });
    assert.ok(mostBuffers(tight) <= buffers, `graph ${seed}: ${mostBuffers(tight)} buffers`);
    assert.equal(inPlaceSteps(tight), 0, `graph ${seed}`);
    if (mostBuffers(free) > buffers) smaller++;
    if (inPlaceSteps(free) > 0) apart++;
    assert.deepEqual(await results(tight, g), await results(free, g), `graph ${seed}`);
  }
  assert.ok(smaller > 0 && apart > 3, `${smaller} graphs had larger kernels, ${apart} wrote in place`);
});

test('a model trains with kernels of few buffers', async () => {
  await using session = await compile(toyLM(), {
    loss: crossEntropy,
    optimizer: adamW({ lr: 0.01 }),
    device: 'reference',
  });
  const graph = session.trainGraph(toyBatch(0)),
    compiled = under(graph, { buffers: 10, inPlace: false });
  assert.ok(mostBuffers(under(graph, {})) > 10);
  assert.ok(mostBuffers(compiled) <= 10);
  assert.equal(inPlaceSteps(compiled), 0);
});

test('an op with more operands than a kernel may have is refused by name', () => {
  const b = new GraphBuilder(ops),
    parts = Array.from({ length: 9 }, (_, i) => b.input('input', `x${i}`, { dtype: 'float32', shape: [4] }));
  b.output('y', concat(parts, 0));
  assert.throws(
    () => under(b.build(), { buffers: 8 }),
    (e: unknown) => e instanceof UserError && /concat .*needs 10 buffers.*at most 8/.test(e.message),
  );
  assert.equal(mostBuffers(under(b.build(), { buffers: 10 })), 10);
});

test('a dtype that the device cannot store is refused by name', () => {
  const b = new GraphBuilder(ops),
    x = b.input('input', 'x', { dtype: 'float64', shape: [4] });
  b.output('y', add(x, x));
  assert.throws(
    () => under(b.build(), { dtypes: ['float32', 'int32', 'bool'] }),
    (e: unknown) => e instanceof UserError && /cannot store float64: x is float64\[4\]/.test(e.message),
  );
});
