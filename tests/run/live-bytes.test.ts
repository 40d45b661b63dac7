// A long run does not leak: at its end it holds as much memory as after its first steps, on the device (exactly) and in
// the host's heap (to 1 MiB).
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { hostTensor } from '../../src/base/tensor.ts';
import type { Bound, BoundStep, Memory } from '../../src/device/device.ts';
import { NativeDevice } from '../../src/device/native/native.ts';
import { WasmDevice } from '../../src/device/wasm/wasm.ts';
import { crossEntropy, meanSquaredError } from '../../src/nn/loss.ts';
import { MLP } from '../../src/nn/mlp.ts';
import { adamW } from '../../src/optim/adam.ts';
import { compileGraph } from '../../src/pipeline.ts';
import { ProgramExecutor } from '../../src/run/program.ts';
import { generate } from '../../src/session/generate.ts';
import { compileOn } from '../../src/session/compile.ts';
import { node, NOW } from '../../src/session/node.ts';
import { Session } from '../../src/session/session.ts';
import type { CompileOptions } from '../../src/session/step.ts';
import { noCompiler, toyBatch, toyLM } from '../support/toy.ts';
import { WrappedDevice } from '../support/wrapped-device.ts';

const STEPS = 10_000;

/** Counts bytes that are allocated and not freed (`live`), and tables of steps that are not released (`tables`). */
class CountingDevice extends WrappedDevice {
  live = 0;
  tables = 0;

  override alloc(bytes: number): Memory {
    const memory = this.device.alloc(bytes);
    this.live += memory.bytes;
    return memory;
  }
  override free(memory: Memory): void {
    this.live -= memory.bytes;
    this.device.free(memory);
  }
  override bind(steps: readonly BoundStep[]): Bound {
    const real = this.device.bind(steps);
    this.tables++;
    return {
      run: (from, to) => real.run(from, to),
      profile: () => real.profile(),
      dispose: () => {
        this.tables--;
        real.dispose();
      },
    };
  }
}

interface Held {
  readonly live: number;
  readonly tables: number;
  readonly heap: number;
}

/** Memory that is held after a garbage collection. */
function heldMemory(device: CountingDevice): Held {
  setFlagsFromString('--expose_gc');
  (runInNewContext('gc') as () => void)();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return { live: device.live, tables: device.tables, heap: heapUsed + arrayBuffers };
}

/**
 * Asserts that memory does not grow. The three measurements are equally many steps apart: a leak grows in both
 * intervals, a cache that fills up, or code that is compiled late, in one at most.
 */
function assertNoLeak(first: Held, second: Held, third: Held): void {
  for (const { live, tables } of [second, third]) assert.deepEqual([live, tables], [first.live, first.tables]);
  const grown = [second.heap - first.heap, third.heap - second.heap];
  assert.ok(Math.min(...grown) < 1 << 20, `the heap grew by ${grown.join(' and ')} bytes`);
}

test(`live bytes do not grow over ${STEPS} steps`, { skip: noCompiler }, async () => {
  const device = new CountingDevice(await NativeDevice.open(1)),
    executor = new ProgramExecutor(device);
  const options: CompileOptions = { loss: meanSquaredError, optimizer: adamW({ lr: 1e-3 }) };
  const session = new Session(
    new MLP([4, 8, 4]),
    options,
    {
      executor,
      files: null,
      group: null,
      admit: () => undefined,
      room: () => ({ bytes: Infinity, why: '' }),
      budget: () => ({ bytes: Infinity, given: true }),
      replan: () => null,
      plan(graph) {
        const compiled = compileGraph(graph, device.target);
        return {
          compiled,
          bytes: 0,
          needs: () => 0,
          begin: () => ({
            compiled,
            ready: device.compile(compiled.kernels),
            bytes: 0,
            reserve: (states) => states(graph),
            load: () => executor.load(compiled.program),
          }),
        };
      },
    },
    NOW,
  );
  const data = Float32Array.from({ length: 16 }, (_, i) => Math.sin(i)),
    x = hostTensor('float32', [4, 4], data),
    batch = { x, y: x };
  for (let i = 0; i < 500; i++) await session.step(batch);
  const heldAfterMoreSteps = async (): Promise<Held> => {
    for (let i = 0; i < STEPS / 2; i++) await session.step(batch);
    return heldMemory(device);
  };
  assertNoLeak(heldMemory(device), await heldAfterMoreSteps(), await heldAfterMoreSteps());
  await session.close();
  assert.equal(device.live, 0);
  assert.equal(device.tables, 0);
});

test(
  'live bytes do not grow over evaluations, predictions and generations during observed steps',
  { timeout: 100_000 },
  async () => {
    const device = new CountingDevice(await WasmDevice.open(1, { memory: 64e6 }));
    const session = await compileOn(
      { ...node, open: () => Promise.resolve(device) },
      toyLM(),
      {
        loss: crossEntropy,
        optimizer: adamW({ lr: 1e-3 }),
        device: 'wasm',
        observe: true,
      },
      NOW,
    );
    const round = async (i: number): Promise<void> => {
      const calls = [session.step(toyBatch(i)), session.evaluate([toyBatch(i, 2)]), session.predict(toyBatch(i, 1).x)];
      for await (const token of generate(session, [i % 17], { tokens: 2, seed: i })) assert.ok(token < 17);
      await Promise.all(calls);
    };
    for (let i = 0; i < 60; i++) await round(i);
    const heldAfterMoreRounds = async (): Promise<Held> => {
      for (let i = 0; i < 250; i++) await round(i);
      return heldMemory(device);
    };
    assertNoLeak(heldMemory(device), await heldAfterMoreRounds(), await heldAfterMoreRounds());
    await session.close();
    assert.deepEqual([device.live, device.tables], [0, 0]);
  },
);
