// Convolutional layers in a model: shapes, starting values, learning, and the same bits on every device.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Stream } from '../../src/base/random.ts';
import { boundOf, elements } from '../../src/base/shape.ts';
import { hostTensor, type Batch } from '../../src/base/tensor.ts';
import { arrays } from '../../src/data/arrays.ts';
import { mnist } from '../../src/data/mnist.ts';
import type { Device } from '../../src/device/device.ts';
import { NativeDevice } from '../../src/device/native/native.ts';
import { WasmDevice } from '../../src/device/wasm/wasm.ts';
import { ops } from '../../src/graph/ops/index.ts';
import { relu } from '../../src/graph/ops/elementwise/relu.ts';
import * as nn from '../../src/nn/index.ts';
import { crossEntropy } from '../../src/nn/loss.ts';
import { adamW } from '../../src/optim/adam.ts';
import { warmupCosine } from '../../src/optim/schedule.ts';
import { compileGraph, loadProgram } from '../../src/pipeline.ts';
import { ProgramExecutor } from '../../src/run/program.ts';
import { compile } from '../../src/session/node.ts';
import { accuracy } from '../../src/train/metrics.ts';
import { nameParameters } from '../../src/trace/module.ts';
import { initialValue } from '../../src/trace/parameter.ts';
import { call, trace } from '../../src/trace/trace.ts';
import { noCompiler } from '../support/toy.ts';

const SIDE = 8,
  CLASSES = 4;

/**
 * Images of noise with one bar, horizontal or vertical, in the first or the second half. The position within the half
 * is random. The class is the orientation and the half.
 */
function bars(count: number, name: string): { x: Batch['x']; y: Batch['y'] } {
  const stream = new Stream(11, name),
    x = new Float32Array(count * SIDE * SIDE),
    y = new Int32Array(count);
  for (let n = 0; n < count; n++) {
    const [turn, half, at] = [0, 1, 2].map((i) => Math.floor(stream.uniform(0, 3 * n + i) * (i === 2 ? SIDE / 2 : 2)));
    y[n] = 2 * turn + half;
    for (let p = 0; p < SIDE * SIDE; p++) {
      const line = turn === 0 ? Math.floor(p / SIDE) : p % SIDE;
      x[n * SIDE * SIDE + p] =
        0.7 * stream.normal(1, n * SIDE * SIDE + p) + (line === half * (SIDE / 2) + at ? 1.5 : 0);
    }
  }
  return { x: hostTensor('float32', [count, SIDE * SIDE], x), y: hostTensor('int32', [count], y) };
}

const model = (): nn.SmallCNN => new nn.SmallCNN({ image: [SIDE, SIDE, 1], outputs: CLASSES, widths: [8, 8] });

test('a small CNN learns the orientation and position of bars in noise', async () => {
  await using session = await compile(model(), { loss: crossEntropy, optimizer: adamW({ lr: 0.01 }), seed: 2 });
  const held = bars(400, 'held'),
    before = accuracy((await session.forward(held))['output'], held);
  for await (const batch of arrays(bars(1600, 'train')).batches({ size: 64, limit: 100 })) await session.step(batch);
  const { output, loss } = await session.forward(held),
    after = accuracy(output, held);
  assert.ok(
    before < 0.5 && after > 0.95 && loss.data[0] < 0.2,
    `accuracy ${before}, then ${after}, loss ${loss.data[0]}`,
  );
});

const shared = fileURLToPath(new URL('../../../shared/data', import.meta.url));
const reason = !existsSync(join(shared, 't10k-images-idx3-ubyte.gz')) && `needs ${shared}`;

test('two epochs of 8,000 MNIST digits are enough for 97% of the other 2,000', { skip: reason }, async () => {
  const digits = mnist(shared, { train: 8000, normalise: true }),
    cnn = new nn.SmallCNN({ image: [28, 28, 1], outputs: 10 });
  await using session = await compile(cnn, {
    loss: crossEntropy,
    optimizer: adamW({ lr: warmupCosine({ peak: 3e-3, warmup: 25, total: 250 }) }),
    seed: 1,
  });
  for await (const batch of digits.batches({ size: 64, limit: 250 })) await session.step(batch);
  const held = await digits.all('test'),
    right = accuracy((await session.forward(held))['output'], held);
  assert.ok(right >= 0.97, `${right}`);
});

test('training a small CNN has the same bits for any number of threads, native or wasm', async (t) => {
  await using session = await compile(model(), {
    loss: crossEntropy,
    optimizer: adamW({ lr: 0.01, clip: 1 }),
    device: 'reference',
  });
  const batches = Array.from({ length: 4 }, (_, i) => bars(24, `${i}`)),
    compiled = compileGraph(session.trainGraph(batches[0]));
  const named = nameParameters(model()).parameters;
  const run = async (device: Device): Promise<unknown> => {
    const executor = new ProgramExecutor(device);
    for (const { name, tensor, type } of compiled.program.states) {
      const p = named.get(name);
      executor.setState(
        name,
        type,
        p ? initialValue(p, name, 5) : new Float32Array(elements(compiled.program.tensors[tensor].type.shape)),
      );
    }
    const loaded = await loadProgram(executor, compiled),
      losses: number[] = [],
      { scalars } = adamW({ lr: 0.01, clip: 1 });
    for (const [step, b] of batches.entries()) {
      const rates = Object.fromEntries(Object.entries(scalars(step)).map(([k, v]) => [k, Float32Array.of(v)]));
      losses.push(
        Number(
          (await executor.run(loaded, { x: b.x.data, y: b.y.data, commit: Int32Array.of(1), ...rates }))['loss']
            .data[0],
        ),
      );
    }
    const states = compiled.program.states.map(({ name }) => executor.peekState(name).data);
    await executor.close();
    return { losses, states };
  };
  const wasm = await WasmDevice.open(1),
    one = await run(wasm);
  assert.deepEqual(await run(await WasmDevice.open(2)), one);
  if (!wasm.info.exact.includes('float32')) {
    t.diagnostic('this engine rounds products before it adds');
    return;
  }
  if (noCompiler) {
    t.diagnostic(noCompiler);
    return;
  }
  for (const threads of [1, 2, 3]) assert.deepEqual(await run(await NativeDevice.open(threads)), one);
});

test('a small CNN accepts a number of images that is counted at run time, as for an expert', async () => {
  const cnn = model(),
    named = nameParameters(cnn),
    held = bars(5, 'counted'),
    data = held.x.data as Float32Array;
  const graph = (counted: boolean): ReturnType<typeof trace> =>
    trace(ops, named, false, (t) => {
      const n = t.input('input', 'n', { dtype: 'int32', shape: [] });
      const x = t.input('input', 'x', {
          dtype: 'float32',
          shape: [counted ? { kind: 'bounded', bound: 5, count: n.id } : 2, SIDE * SIDE],
        }),
        y = call(cnn, x);
      assert.deepEqual(y.shape.map(boundOf), [counted ? 5 : 2, CLASSES]);
      t.output('y', y);
    });
  const executor = new ProgramExecutor(await WasmDevice.open(1));
  for (const [name, p] of named.parameters)
    executor.setState(name, { dtype: p.dtype, shape: p.shape }, initialValue(p, name, 1));
  const run = async (counted: boolean, x: Float32Array): Promise<number[]> =>
    Array.from(
      (
        await executor.run(await loadProgram(executor, compileGraph(graph(counted), executor.device.target)), {
          n: Int32Array.of(2),
          x,
        })
      )['y'].data,
    ).slice(0, 2 * CLASSES);
  const two = data.slice(0, 2 * SIDE * SIDE);
  assert.deepEqual(
    await run(
      true,
      data.map((v, i) => (i < two.length ? v : NaN)),
    ),
    await run(false, two),
  );
  await executor.close();
});

test('shapes of layers; initial weights have the deviation of He et al.', () => {
  const conv = new nn.Conv2d(16, 32, [3, 5], { padding: 'same', stride: 2 }),
    layers = new nn.Sequential(conv, relu, new nn.AvgPool2d(2), new nn.GlobalAvgPool2d());
  const named = nameParameters(layers),
    shapes: number[][] = [];
  trace(ops, named, false, (t) => {
    const x = t.input('input', 'x', { dtype: 'float32', shape: [4, 9, 12, 16] });
    shapes.push(
      ...[
        call(conv, x),
        call(new nn.MaxPool2d([2, 3], { stride: 1 }), x),
        call(layers, x),
        call(new nn.Flatten(), x),
      ].map((y) => y.shape.map(boundOf)),
    );
  });
  assert.deepEqual(shapes, [
    [4, 5, 6, 32],
    [4, 8, 10, 16],
    [4, 32],
    [4, 9 * 12 * 16],
  ]);
  assert.deepEqual([...named.parameters.keys()], ['layers.0.weight', 'layers.0.bias']);
  const weights = initialValue(conv.weight, 'w', 0) as Float32Array,
    deviation = Math.sqrt(weights.reduce((s, v) => s + v * v, 0) / weights.length);
  assert.ok(Math.abs(deviation / Math.sqrt(2 / (3 * 5 * 16)) - 1) < 0.03, `${deviation}`);
});

test('errors name the layer and what does not fit', () => {
  const conv =
    (shape: readonly number[], layer: { forward(x: never): unknown }): (() => unknown) =>
    () =>
      trace(ops, nameParameters({ layer }), false, (t) => {
        call(layer as nn.Layer, t.input('input', 'x', { dtype: 'float32', shape }));
      });
  assert.throws(
    conv([2, 9, 9, 4], new nn.Conv2d(3, 8, 3)),
    /images float32\[2, 9, 9, 4\] and weights \[3, 3, 3, 8\] do not fit in 1 groups.*hint: images \[N, H, W, inputs\]/s,
  );
  assert.throws(
    conv([2, 9, 9], new nn.Conv2d(3, 8, 3)),
    /images are \[count, height, width, channels\], got float32\[2, 9, 9\]/,
  );
  assert.throws(
    conv([2, 9, 2, 3], new nn.Conv2d(3, 8, 3)),
    /a window that reaches over 3 does not fit into 2 \(dimension 2/,
  );
  assert.throws(
    () => new nn.Conv2d(3, 8, 3, { stride: 0 }),
    /UserError: Conv2d: stride must be a whole number of at least 1, or \[vertical, horizontal\] of such, got 0/,
  );
  assert.throws(
    conv([2, 9, 9, 3], new nn.MaxPool2d(2, { padding: 2 })),
    /padding \[2, 2, 2, 2\] leaves windows of \[2, 2\] with nothing in them/,
  );
  assert.throws(conv([2, 99, 99, 3], new nn.AvgPool2d(17)), /a window of 17 x 17 is more than 256 elements.*hint/s);
  assert.throws(() => new nn.Conv2d(6, 8, 3, { groups: 4 }), /4 groups do not divide 6 inputs and 8 outputs/);
  assert.throws(() => new nn.SmallCNN({ image: [3, 28, 1], outputs: 2 }), /2 blocks leave nothing of 3 x 28 images/);
});
