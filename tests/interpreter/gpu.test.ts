// Schedules for the GPU that devices would have (conformance cases run with fewer threads and blocks), and the barriers
// of these schedules: without one that it needs, the interpreter finds a race in a kernel.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { Device, KernelSource } from '../../src/device/device.ts';
import type { NormalsSource } from '../../src/device/normals.ts';
import { WasmDevice } from '../../src/device/wasm/wasm.ts';
import type { GpuKernel, GpuStmt } from '../../src/schedule/gpu-kernel.ts';
import { GPU } from '../../src/schedule/gpu.ts';
import { all } from '../conformance/cases/index.ts';
import { checkDevices, type Case } from '../conformance/harness.ts';
import { WrappedDevice } from '../support/wrapped-device.ts';
import { Interpreter } from './device.ts';

test('blocks of 256 threads: the bits of other devices', async (t) => {
  const wasm = await WasmDevice.open(1),
    devices = new Map<string, Device>([
      ['wasm', wasm],
      ['interpreter', new Interpreter(GPU)],
    ]);
  try {
    if (!wasm.info.exact.includes('float32')) {
      t.skip('this engine rounds products before it adds');
      return;
    }
    for (const op of ['matmul', 'groupedMatmul', 'softmax', 'attention', 'topK', 'permute', 'conv2d', 'sum']) {
      const family = all.find((f) => f.op === op);
      assert.ok(family, op);
      for (const c of fc.sample(family.cases, { seed: 3, numRuns: 2 }))
        await checkDevices(c, 1, devices, new Set(devices.keys()));
    }
  } finally {
    await wasm.close();
  }
});

/** An interpreter that leaves out barrier number `without` of every kernel that has so many. */
class WithoutBarrier extends WrappedDevice {
  readonly #without: number;

  constructor(without: number) {
    super(new Interpreter(GPU));
    this.#without = without;
  }

  override compile(kernels: readonly (KernelSource | NormalsSource)[]): Promise<void> {
    return super.compile(
      kernels.map((k) => (k.kernel.form === 'threads' ? { key: k.key, kernel: this.#less(k.kernel) } : k)),
    );
  }

  #less(k: GpuKernel): GpuKernel {
    let seen = 0;
    const keep = (body: readonly GpuStmt[]): GpuStmt[] =>
      body.flatMap((s): GpuStmt[] => {
        if (s.s === 'barrier') return seen++ === this.#without ? [] : [s];
        return [s.s === 'for' || s.s === 'if' ? { ...s, body: keep(s.body) } : s];
      });
    return { ...k, body: keep(k.body) };
  }
}

/** Whether the interpreter finds a race in a case without barrier number `without`. */
async function isNeeded(c: Case, without: number): Promise<boolean> {
  try {
    await checkDevices(c, 1, new Map([['device', new WithoutBarrier(without)]]));
    return false;
  } catch (error) {
    assert.match(String(error), /a race: thread|which has no value/);
    return true;
  }
}

test('a product or a reduction without one of its barriers: a race is found', async () => {
  const caseOf = (op: string, fits: (c: Case) => boolean): Case => {
    const c = all
      .filter((f) => f.op === op && f.name === undefined)
      .flatMap((f) => fc.sample(f.cases, { seed: 1, numRuns: 60 }))
      .find(fits);
    assert.ok(c, op);
    return c;
  };
  const large = (c: Case): boolean => c.inputs.every((i) => i.shape.every((d) => typeof d === 'number' && d > 2));
  const product = caseOf('matmul', large),
    rows = caseOf('softmax', large);
  // After the copies to shared memory.
  assert.ok(await isNeeded(product, 0));
  // Before a thread reads the partial results of others, for the largest element and for the sum.
  for (let i = 0; i < 2; i++) assert.ok(await isNeeded(rows, i), `barrier ${i}`);
  // There are not so many barriers.
  assert.ok(!(await isNeeded(rows, 100)));
});
