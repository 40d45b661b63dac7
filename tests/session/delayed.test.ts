// The session tests on a device with delayed reads, whose memory the host does not see (support/delayed-device.ts): a
// session must give the same results on it. A representative part of them runs always, the rest with DYNAMOE_FULL.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Bound } from '../../src/device/device.ts';
import { WasmDevice } from '../../src/device/wasm/wasm.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { add } from '../../src/graph/ops/elementwise/add.ts';
import { ops } from '../../src/graph/ops/index.ts';
import { crossEntropy } from '../../src/nn/loss.ts';
import { adamW } from '../../src/optim/adam.ts';
import { compileGraph } from '../../src/pipeline.ts';
import { compile, node } from '../../src/session/node.ts';
import { drawsFromEnv } from '../support/random-cases.ts';
import { DelayedDevice, delayReads, opened, peek } from '../support/delayed-device.ts';
import { toyBatch, toyLM } from '../support/toy.ts';

const ALWAYS = ['restore', 'failed-steps', 'states', 'order'],
  FULL = [
    'session/devices',
    'session/faults',
    'session/generate',
    'session/means',
    'session/means-recompile',
    'session/mutable',
    'session/programs',
    'session/random',
    'session/session',
    'session/settings',
    'session/several',
    'session/split',
    'recompile/engine',
    'recompile/inference',
    'recompile/policies/lifecycle',
    'nn/moe/slots',
    'nn/moe/memory',
  ];

const { seed } = drawsFromEnv(),
  { open } = node;
delayReads(seed);
node.open = async (...request) => opened(await open(...request));

test(`reads are delayed, seed ${seed}: states are read asynchronously only`, async () => {
  await using session = await compile(toyLM(), { loss: crossEntropy, optimizer: adamW({ lr: 1e-2 }), device: 'wasm' });
  assert.ok('device' in session.executor && session.executor.device instanceof DelayedDevice);
  await session.step(toyBatch(0));
  const [state] = session.states();
  assert.throws(() => state.read(), /UserError: state .* cannot read its memory at once\n {2}hint: await readAsync/s);
  const value = state.readAsync();
  // The value is that of the moment of the call.
  const before = peek(() => state.read()),
    step = session.step(toyBatch(1));
  assert.deepEqual(await value, before);
  await step;
  assert.notDeepEqual(await state.readAsync(), before);
  assert.deepEqual(
    await state.readAsync(),
    peek(() => state.read()),
  );
});

test('the device refuses kernels that write in place', async () => {
  const b = new GraphBuilder(ops);
  b.output('y', add(b.input('input', 'x', { dtype: 'float32', shape: [4] }), 1));
  const { kernels, program } = compileGraph(b.build()),
    [step] = program.steps;
  assert.ok(step.kind === 'kernel');
  const { kernel, ints } = step;
  const device = new DelayedDevice(await WasmDevice.open(1, { memory: 1e6 }), seed),
    memory = device.alloc(1024),
    bind = (offset: number): Bound =>
      device.bind([
        {
          kernel,
          ints,
          barrier: false,
          unless: null,
          buffers: [
            { memory, offset: 0 },
            { memory, offset },
          ],
        },
      ]);
  await device.compile(kernels);
  bind(256);
  assert.throws(() => bind(0), /in place/);
  await device.close();
});

for (const name of ALWAYS) await import(`./${name}.test.ts`);
if (process.env['DYNAMOE_FULL'] === '1') for (const name of FULL) await import(`../${name}.test.ts`);
