// Closing a device waits for what runs on it; afterwards it refuses to run anything.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hash32 } from '../../src/base/hash.ts';
import { Stream } from '../../src/base/random.ts';
import { TABLES } from '../../src/base/trig.ts';
import type { Device } from '../../src/device/device.ts';
import { NativeDevice } from '../../src/device/native/native.ts';
import { NORMALS, normalsInts } from '../../src/device/normals.ts';
import { WasmDevice } from '../../src/device/wasm/wasm.ts';
import { DelayedDevice, peek } from '../support/delayed-device.ts';
import { noCompiler } from '../support/toy.ts';

const COUNT = 3_000_000;
const DEVICES: readonly (readonly [string, () => Promise<Device>])[] = [
  ['native', () => NativeDevice.open(2)],
  ['wasm', () => WasmDevice.open(2)],
  ['a device with delayed reads', async () => new DelayedDevice(await WasmDevice.open(2), 1)],
];

for (const [name, open] of DEVICES)
  test(`${name}: close waits for runs and reads`, { skip: name === 'native' && noCompiler }, async () => {
    const device = await open(),
      [numbers, tables] = [device.alloc(4 * COUNT), device.alloc(TABLES.byteLength)];
    device.write({ memory: tables, offset: 0 }, TABLES);
    await device.compile([NORMALS]);
    const bound = device.bind([
      {
        kernel: NORMALS.key,
        buffers: [
          { memory: numbers, offset: 0 },
          { memory: tables, offset: 0 },
        ],
        ints: normalsInts(COUNT, 5, hash32('w'), 1),
        barrier: false,
        unless: null,
      },
    ]);
    const into = new Float32Array(2),
      last = new Float32Array(2),
      running = bound.run();
    let read = false;
    void device.read([{ place: { memory: tables, offset: 0 }, into }]).then(() => {
      read = true;
    });
    await device.close();
    assert.ok(read);
    peek(() => numbers.peek?.(4 * (COUNT - 2), last));
    assert.deepEqual(last, new Stream(5, 'w').normals(0, 1, new Float32Array(2), COUNT - 2), 'the run has ended');
    await running;
    await assert.rejects(bound.run(), /closed/);
    assert.deepEqual(into, new Float32Array(TABLES.buffer, 0, 2));
  });

test('memory of a device that was freed, or of another device, is refused', async () => {
  const [a, b] = [await WasmDevice.open(1, { memory: 1e6 }), await WasmDevice.open(1, { memory: 1e6 })],
    memory = a.alloc(256),
    write = (device: Device): void => {
      device.write({ memory, offset: 0 }, new Float32Array(4));
    };
  write(a);
  assert.throws(() => {
    write(b);
  }, /freed, or is not of this wasm device/);
  assert.throws(() => {
    a.write({ memory, offset: 248 }, new Float32Array(4));
  }, /lie outside a block of 256 bytes/);
  a.free(memory);
  assert.throws(() => {
    write(a);
  }, /freed/);
  await Promise.all([a.close(), b.close()]);
});
