// A whole training step on the interpreters: with the updates in place, the flag that guards them, and copies of
// states. Results and states have the bits of the wasm device.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hostArray, type TypedArray } from '../../src/base/dtype.ts';
import { elements } from '../../src/base/shape.ts';
import type { HostTensor } from '../../src/base/tensor.ts';
import type { Device } from '../../src/device/device.ts';
import { WasmDevice } from '../../src/device/wasm/wasm.ts';
import type { Graph } from '../../src/graph/graph.ts';
import { crossEntropy } from '../../src/nn/loss.ts';
import { compile } from '../../src/node.ts';
import { adamW } from '../../src/optim/index.ts';
import { compileGraph, loadProgram } from '../../src/pipeline.ts';
import { ProgramExecutor } from '../../src/run/program.ts';
import { SMALL_GPU } from '../conformance/devices.ts';
import { NATIVE } from '../../src/schedule/target.ts';
import { toyBatch, toyLM } from '../support/toy.ts';
import { Interpreter } from './device.ts';

interface State {
  readonly name: string;
  readonly value: HostTensor;
}

/** Outputs and states after two steps, and a third one that stores nothing. */
async function train(device: Device, graph: Graph, states: readonly State[]): Promise<Record<string, TypedArray>> {
  const compiled = compileGraph(graph, device.target),
    executor = new ProgramExecutor(device),
    all: Record<string, TypedArray> = {};
  for (const { name, type } of compiled.program.states) {
    const given = states.find((s) => s.name === name);
    executor.setState(name, type, given?.value.data ?? null);
  }
  const loaded = await loadProgram(executor, compiled);
  for (const [step, commit] of [1, 1, 0].entries()) {
    const batch = toyBatch(step);
    const inputs = compiled.program.inputs.map(({ name, type }): [string, TypedArray] => {
      if (name === 'x' || name === 'y') return [name, batch[name].data];
      const value = name === 'commit' ? commit : type.dtype === 'float32' ? 0.01 : step + 1;
      return [name, hostArray(type.dtype, elements(type.shape)).fill(value)];
    });
    for (const [name, { data }] of Object.entries(await executor.run(loaded, Object.fromEntries(inputs))))
      all[`${name} of step ${step}`] = data.slice();
  }
  for (const name of executor.stateNames()) all[name] = (await executor.getState(name)).data;
  await executor.close();
  return all;
}

test('a model with experts trains with the same bits as on wasm', async (t) => {
  const wasm = await WasmDevice.open(1);
  if (!wasm.info.exact.includes('float32')) {
    await wasm.close();
    t.skip('this engine rounds products before it adds');
    return;
  }
  await using session = await compile(toyLM({ kvHeads: 1, dropout: 0.1 }), {
    loss: crossEntropy,
    optimizer: adamW({ lr: 1e-2 }),
    device: 'wasm',
    seed: 3,
  });
  const batch = toyBatch(0);
  await session.prepare(batch);
  const graph = session.trainGraph(batch),
    states = session.states().map(({ name, read }): State => ({ name, value: read() }));
  const wanted = await train(wasm, graph, states);
  const weight = states.find((s) => s.name.endsWith('weight'));
  assert.ok(weight && weight.value.data.some((x, i) => x !== wanted[weight.name][i]), 'the steps changed weights');
  const notInPlace = { ...SMALL_GPU, limits: { ...SMALL_GPU.limits, inPlace: false } };
  for (const target of [NATIVE, SMALL_GPU, notInPlace]) {
    const got = await train(new Interpreter(target), graph, states);
    assert.deepEqual(Object.keys(got).sort(), Object.keys(wanted).sort());
    for (const [name, values] of Object.entries(wanted)) assert.deepEqual(got[name], values, `${target.kind}: ${name}`);
  }
});
