// A layer of many experts that is computed expert by expert has the bits of one product after the other: on every
// device, for any number of threads, and if one expert has most of the rows. Products that must not be computed in
// this way are not.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sizes } from '../../../src/base/shape.ts';
import { layerGraph, layerOf, type LayerWork } from '../../../src/bench/layer-work.ts';
import { NativeDevice } from '../../../src/device/native/native.ts';
import { WasmDevice } from '../../../src/device/wasm/wasm.ts';
import { shareOf } from '../../../src/kernel/shares.ts';
import { sgd } from '../../../src/optim/sgd.ts';
import { compileGraph, type Compiled } from '../../../src/pipeline.ts';
import type { KernelStep } from '../../../src/plan/program.ts';
import { overlap } from '../../../src/plan/overlap.ts';
import { groupwiseAfter } from '../../../src/schedule/steps.ts';
import { ProgramExecutor } from '../../../src/run/program.ts';
import { initialParts, Parameter } from '../../../src/trace/parameter.ts';
import { noCompiler } from '../../support/toy.ts';

const WORK: LayerWork = {
  tokens: 512,
  dModel: 48,
  dFf: 80,
  experts: 32,
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
const RATE = { lr: Float32Array.of(0.1) };

function compiled(changes: Partial<LayerWork> = {}): Compiled {
  const work = { ...WORK, ...changes };
  return compileGraph(layerGraph(layerOf(work), work, sgd({ lr: 0.1, eager: work.eager })));
}

/** The steps of a program for a CPU, which are all kernels. */
const stepsOf = ({ program }: Compiled): KernelStep[] =>
  program.steps.map((s) => {
    assert.ok(s.kind === 'kernel');
    return s;
  });

const chained = (c: Compiled): string[] =>
  stepsOf(c).flatMap((s, i, all) => (s.runsGroupwiseAfterPrevious ? [`${all[i - 1].ops[0]} ${s.ops[0]}`] : []));

/** All states after two steps, as bits. `skewed`: nearly all tokens choose the same two experts. */
async function statesOf(
  device: NativeDevice | WasmDevice,
  { graph, program, kernels }: Compiled,
  skewed: boolean,
): Promise<Map<string, Uint32Array>> {
  const executor = new ProgramExecutor(device),
    states = graph.inputs.filter((i) => i.kind === 'state');
  try {
    await device.compile(kernels);
    executor.reserve(program);
    for (const { name, value } of states) {
      const shape = sizes(graph.types[value].shape),
        std = name === 'router.weight' && !skewed ? 0.05 : 0.3;
      executor.setState(name, graph.types[value], null);
      for (const { at, data } of initialParts(new Parameter(shape, { kind: 'normal', std }), name, 7)) {
        if (name === 'router.weight' && skewed)
          for (let i = 0; i < data.length; i++) if ((at + i) % WORK.experts > 1) data[i] = -Math.abs(data[i]);
        if (name === 'x' && skewed) for (let i = 0; i < data.length; i++) data[i] = Math.abs(data[i]);
        executor.setPart(name, at, data);
      }
    }
    const loaded = executor.load(program);
    for (let step = 0; step < 2; step++) {
      const { load } = await executor.run(loaded, {
        commit: Int32Array.of(1),
        seed: Uint32Array.of(0),
        step: Uint32Array.of(step),
        ...RATE,
      });
      // The driver runs group by group if no group has more than 1 / (8 * threads) of the rows.
      const most = Math.max(...load.data) / (WORK.tokens * WORK.topK);
      assert.ok(skewed ? most > 1 / 8 : most <= 1 / 16, `${most}`);
    }
    return new Map(states.map(({ name }) => [name, new Uint32Array(executor.peekState(name).data.slice().buffer)]));
  } finally {
    await executor.close();
  }
}

test('expert by expert: the bits of one product after the other', { skip: noCompiler }, async () => {
  const all = compiled(),
    { program } = all,
    unchained = {
      ...all,
      program: { ...program, steps: stepsOf(all).map(({ runsGroupwiseAfterPrevious: _, ...s }) => s) },
    };
  assert.ok(chained(all).length >= 3, chained(all).join(', '));
  for (const skewed of [false, true]) {
    const expected = await statesOf(await NativeDevice.open(2), unchained, skewed);
    for (const threads of [1, 2, 3])
      assert.deepEqual(await statesOf(await NativeDevice.open(threads), all, skewed), expected, `${threads} threads`);
    assert.deepEqual(await statesOf(await WasmDevice.open(1), all, skewed), expected, 'wasm');
  }
});

test('which products run groupwise after the previous one', () => {
  assert.deepEqual(chained(compiled({ pass: 'forward' })), ['groupedMatmul groupedMatmul']);
  // In both banks, the gradient to the rows is followed by the gradient to the weights, which has the update fused
  // into it.
  assert.deepEqual(
    chained(compiled()).filter((c) => c.endsWith('groupedOuter')),
    ['groupedMatmul groupedOuter', 'groupedMatmul groupedOuter'],
  );
  // The product of a dense layer has no groups.
  assert.ok(!chained(compiled({ experts: 0 })).length);
});

test('a product that reads rows of other groups does not run groupwise after the product that makes them', () => {
  const all = compiled(),
    { program, lowered } = all,
    kernelOf = new Map(lowered.calls.flatMap((c) => (c.kind === 'kernel' ? [[c.key, c.kernel] as const] : [])));
  const planned = stepsOf(all).map((step) => ({ step, kernel: kernelOf.get(step.kernel) }));
  let gathers = 0;
  for (const { step, kernel } of planned) {
    if (kernel?.form !== 'matmul' || !step.ops[0].startsWith('grouped')) continue;
    step.buffers.forEach((t, b) => {
      const share = shareOf(kernel, b),
        name = program.tensors[t].name;
      if (name === 'x') {
        gathers++;
        assert.equal(share, null);
      }
      if (/experts.*weight/.test(name)) assert.equal(share, `part ${WORK.dModel * WORK.dFf}`);
    });
  }
  assert.equal(gathers, 2);
  // The same two steps, but the result of the second one is planned over the result of the first one.
  const at = planned.findIndex(({ step }) => step.runsGroupwiseAfterPrevious),
    [first, second] = [planned[at - 1], planned[at]];
  if (!first.kernel || !second.kernel) throw new Error('a kernel is missing');
  const pair = [
    { step: first.step, kernel: first.kernel },
    { step: second.step, kernel: second.kernel },
  ] as const;
  assert.deepEqual(groupwiseAfter(program.tensors, [pair[0]], pair[1]), second.step.runsGroupwiseAfterPrevious);
  const out = second.step.buffers[second.step.writes.indexOf(true)],
    hidden = first.step.buffers[first.step.writes.indexOf(true)];
  const moved = program.tensors.map((t, i) =>
    i === out ? { ...t, slab: program.tensors[hidden].slab, offset: program.tensors[hidden].offset } : t,
  );
  assert.ok(overlap(moved[out], moved[hidden]));
  assert.equal(groupwiseAfter(moved, [pair[0]], pair[1]), undefined);
  assert.equal(groupwiseAfter(program.tensors, [], pair[1]), undefined);
});
