// Initial values that the threads of a device draw have the same bits as those that the host draws.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Stream } from '../../src/base/random.ts';
import type { Device } from '../../src/device/device.ts';
import { NativeDevice } from '../../src/device/native/native.ts';
import { NORMALS } from '../../src/device/normals.ts';
import { WasmDevice } from '../../src/device/wasm/wasm.ts';
import { ProgramExecutor } from '../../src/run/program.ts';
import { ReferenceExecutor } from '../../src/run/reference.ts';
import { ShimDevice } from '../support/cuda/shim.ts';
import { noCompiler } from '../support/toy.ts';

// Numbers of elements: one, odd counts, and more than a thread draws at a time.
const SIZES = [1, 2, 7, 32_768, 32_769, 200_001, 3];
const DEVICES: readonly (readonly [string, () => Promise<Device>])[] = [
  ['native', () => NativeDevice.open(2)],
  ['CUDA text on the CPU', () => ShimDevice.open()],
  ['wasm, 2 threads', () => WasmDevice.open(2)],
  ['wasm, 3 threads', () => WasmDevice.open(3)],
];

const bits = (data: ArrayLike<number>): Uint32Array => new Uint32Array(Float32Array.from(data).buffer);

for (const [name, open] of DEVICES) {
  test(
    `${name}: normal numbers equal those of the host, and other states are not changed`,
    { skip: !name.startsWith('wasm') && noCompiler },
    async () => {
      const device = await open(),
        executor = new ProgramExecutor(device);
      await device.compile([NORMALS]);
      try {
        SIZES.forEach((size, i) => {
          executor.setState(`w${i}`, { dtype: 'float32', shape: [size] }, new Float32Array(size).fill(5));
        });
        for (const seed of [0, 0xffffffff]) {
          await executor.draw(
            SIZES.slice(0, -1).map((_, i) => ({ name: `w${i}`, std: 0.02 * (i + 1) })),
            seed,
          );
          SIZES.forEach((size, i) => {
            const want =
              i === SIZES.length - 1
                ? new Float32Array(size).fill(5)
                : new Stream(seed, `w${i}`).normals(0, 0.02 * (i + 1), new Float32Array(size));
            assert.deepEqual(
              bits(executor.peekState(`w${i}`).data as Float32Array),
              bits(want),
              `${size} numbers of seed ${seed}`,
            );
          });
        }
      } finally {
        await executor.close();
      }
    },
  );
}

for (const [name, open] of DEVICES)
  test(
    `${name}: parts of a stream of normal numbers, in any order, equal those of the host`,
    { skip: !name.startsWith('wasm') && noCompiler },
    async () => {
      const device = await open(),
        executor = new ProgramExecutor(device),
        all = new Stream(9, 'w').normals(0, 0.5, new Float32Array(200_000)),
        runs = [
          { at: 0, from: 120_002, count: 40_001 },
          { at: 40_001, from: 0, count: 3 },
          { at: 40_004, from: 199_998, count: 2 },
        ];
      await device.compile([NORMALS]);
      try {
        executor.setState('w', { dtype: 'float32', shape: [40_006] }, null);
        await executor.draw([{ name: 'w', std: 0.5, runs }], 9);
        const found = executor.peekState('w').data as Float32Array;
        for (const { at, from, count } of runs)
          assert.deepEqual(
            bits(found.subarray(at, at + count)),
            bits(all.subarray(from, from + count)),
            `from ${from}`,
          );
      } finally {
        await executor.close();
      }
    },
  );

test('two draws may be requested at once, before the threads have started', async () => {
  const device = await WasmDevice.open(2),
    executor = new ProgramExecutor(device);
  await device.compile([NORMALS]);
  try {
    for (const name of ['a', 'b']) executor.setState(name, { dtype: 'float32', shape: [100_000] }, null);
    await Promise.all(['a', 'b'].map((name) => executor.draw([{ name, std: 1 }], 3)));
    for (const name of ['a', 'b'])
      assert.deepEqual(executor.peekState(name).data, new Stream(3, name).normals(0, 1, new Float32Array(100_000)));
  } finally {
    await executor.close();
  }
});

test('the reference draws the same numbers', async () => {
  const executor = new ReferenceExecutor();
  executor.setState('w', { dtype: 'float32', shape: [9] }, null);
  await executor.draw([{ name: 'w', std: 0.5 }], 1);
  assert.deepEqual(
    Float32Array.from(executor.peekState('w').data as Float32Array),
    new Stream(1, 'w').normals(0, 0.5, new Float32Array(9)),
  );
});
