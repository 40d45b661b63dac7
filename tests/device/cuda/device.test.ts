// The cuda device over the stand-in for libcuda: memory, order, errors. What a session computes on it is in
// tests/session/cuda.test.ts.
import assert from 'node:assert/strict';
import { test, type TestContext } from 'node:test';
import { CudaDevice } from '../../../src/device/cuda/cuda.ts';
import { declarations } from '../../../src/device/cuda/libcuda.ts';
import { declarations as nvrtcDeclarations, Nvrtc } from '../../../src/device/cuda/nvrtc.ts';
import type { Bound, BoundStep, Memory, Place } from '../../../src/device/device.ts';
import { copyKernel } from '../../../src/schedule/copy.ts';
import { schedule } from '../../../src/schedule/schedule.ts';
import { failing, hasFired, noStandin } from '../../support/cuda/standin.ts';

const skip = noStandin;
const COUNT = 1000;
process.env['DYNAMOE_STANDIN_MEMORY'] = String(96 << 20);

async function opened(t: TestContext): Promise<CudaDevice> {
  const device = await CudaDevice.open();
  t.after(() => device.close());
  return device;
}

const at = (memory: Memory, offset = 0): Place => ({ memory, offset });

/** A copy of COUNT floats, compiled. */
async function copy(device: CudaDevice): Promise<(to: Memory, from: Memory, barrier?: boolean) => BoundStep> {
  const { key, kernel } = copyKernel({ dtype: 'float32', shape: [COUNT] });
  await device.compile([{ key, kernel: schedule(kernel, device.target) }]);
  return (to, from, barrier = true) => ({
    kernel: key,
    buffers: [at(to), at(from)],
    ints: [],
    barrier,
    unless: null,
  });
}

async function floats(device: CudaDevice, memory: Memory, count = COUNT, offset = 0): Promise<Float32Array> {
  const into = new Float32Array(count);
  await device.read([{ place: at(memory, offset), into }]);
  return into;
}

const numbers = (first: number, count = COUNT): Float32Array =>
  Float32Array.from({ length: count }, (_, i) => first + i);

test('memory is zeroed and aligned; writes and reads of all sizes keep their bits', { skip }, async (t) => {
  const device = await opened(t);
  for (const count of [1, 63, 64, 65, 1000, 262_144, 262_145, 3_000_001]) {
    const memory = device.alloc(4 * count);
    assert.ok(memory.bytes >= 4 * count && memory.bytes % 256 === 0);
    assert.ok((await floats(device, memory, count)).every((x) => x === 0));
    const values = numbers(0.5, count);
    device.write(at(memory), values);
    const back = floats(device, memory, count);
    values.fill(-1);
    device.write(at(memory), values.subarray(0, 1));
    device.free(memory);
    assert.deepEqual(await back, numbers(0.5, count));
  }
  const memory = device.alloc(64);
  device.write(at(memory, 8), Uint8Array.of(1, 2, 3));
  const [bytes, none] = [new Uint8Array(6), new Int32Array(0)];
  await device.read([
    { place: at(memory, 6), into: bytes },
    { place: at(memory), into: none },
  ]);
  assert.deepEqual([...bytes], [0, 0, 1, 2, 3, 0]);
  await device.read([]);
  device.free(memory);
});

test('what lies outside a block, or was freed, is refused', { skip }, async (t) => {
  const device = await opened(t),
    memory = device.alloc(256);
  assert.throws(() => {
    device.write(at(memory, 252), new Float32Array(2));
  }, /8 bytes at 252 lie outside a block of 256 bytes/);
  await assert.rejects(floats(device, memory, 65), /260 bytes at 0 lie outside/);
  device.free(memory);
  assert.throws(() => {
    device.write(at(memory), new Float32Array(1));
  }, /this memory was freed/);
  assert.throws(() => {
    device.free(memory);
  }, /this memory was freed/);
  await assert.rejects(floats(device, memory, 1), /this memory was freed/);
});

test('runs, writes and reads are in order, in a graph and kernel by kernel', { skip }, async (t) => {
  const device = await opened(t),
    step = await copy(device),
    [a, b, c, d] = Array.from({ length: 4 }, () => device.alloc(4 * COUNT));
  // a to b and c at the same time, then b to d.
  const table = device.bind([step(b, a), step(c, a, false), step(d, b)]);
  const reads: Promise<Float32Array>[] = [];
  for (let i = 0; i < 5; i++) {
    device.write(at(a), numbers(i));
    if (i % 2 === 0) await table.run();
    else {
      await table.run(0, 1);
      await table.run(1, 3);
      await table.run(2, 2);
    }
    reads.push(floats(device, i % 3 === 0 ? c : d));
  }
  device.write(at(d), numbers(-1));
  for (const [i, read] of reads.entries()) assert.deepEqual(await read, numbers(i), `run ${i}`);
  assert.deepEqual(await floats(device, d), numbers(-1));
  // A table and memory that are given back while they are used stay until they are not.
  device.write(at(a), numbers(7));
  await table.run();
  const last = floats(device, d);
  table.dispose();
  for (const memory of [a, b, c, d]) device.free(memory);
  assert.deepEqual(await last, numbers(7));
});

test('a step with `unless` is skipped if that int32 is not 0; an empty table runs', { skip }, async (t) => {
  const device = await opened(t),
    step = await copy(device),
    [a, b, flag] = Array.from({ length: 3 }, () => device.alloc(4 * COUNT)),
    guarded = device.bind([{ ...step(b, a), unless: at(flag, 8) }]),
    empty = device.bind([]);
  device.write(at(a), numbers(1));
  device.write(at(flag, 8), Int32Array.of(1));
  await guarded.run();
  assert.ok((await floats(device, b)).every((x) => x === 0));
  device.write(at(flag, 8), Int32Array.of(0));
  await guarded.run();
  assert.deepEqual(await floats(device, b), numbers(1));
  await empty.run();
  assert.equal((await empty.profile()).ns.length, 0);
});

test('a profile has the time of each step', { skip }, async (t) => {
  const device = await opened(t),
    step = await copy(device),
    [a, b] = [device.alloc(4 * COUNT), device.alloc(4 * COUNT)];
  device.write(at(a), numbers(3));
  const { ns, tasks } = await device.bind([step(b, a), step(a, b)]).profile();
  assert.equal(ns.length, 2);
  assert.ok(ns.every((x) => x > 0));
  assert.ok(tasks.every((n) => n >= 1 && n <= device.target.blocks));
  assert.deepEqual(await floats(device, b), numbers(3));
});

test('too little memory is a UserError, and freed memory can be used at once', { skip }, async (t) => {
  const device = await opened(t),
    limit = device.info.limit?.bytes ?? 0,
    half = Math.floor(limit * 0.6);
  assert.ok(limit > 0 && device.info.limit?.own);
  const first = device.alloc(half);
  assert.throws(
    () => device.alloc(half),
    /UserError: out of memory on the GPU: \d+ bytes could not be allocated, beside/,
  );
  device.free(first);
  const second = device.alloc(half);
  await failing('cuMemAlloc', 1, async () => {
    // The driver has none, then it has some.
    device.free(device.alloc(256));
    await Promise.resolve();
  });
  const small = device.alloc(256);
  device.write(at(small), Float32Array.of(5));
  assert.equal((await floats(device, small, 1))[0], 5);
  device.free(second);
});

test('a kernel that fails ends all work by name; step by step the message names the kernel', { skip }, async () => {
  for (const stepwise of [false, true]) {
    if (stepwise) process.env['DYNAMOE_CUDA_STEPWISE'] = '1';
    try {
      const device = await CudaDevice.open(),
        step = await copy(device),
        [a, b] = [device.alloc(4 * COUNT), device.alloc(4 * COUNT)],
        steps = [step(b, a), step(a, b), step(b, a)],
        table: Bound = device.bind(steps);
      await failing('kernel', 2, async () => {
        const run = table.run();
        const said = stepwise
          ? /stopped with .*_700 \(700\): an illegal memory access .*; it was running kernel \w+ \(step 1 of 3\)$/m
          : /GPU stopped with .* \(700\).*; it was running steps 0 to 3 of 3 \(kernels \w+ to \w+\)$/m;
        if (stepwise) await assert.rejects(run, said);
        else {
          await run;
          await assert.rejects(floats(device, b), said);
        }
      });
      // Later calls say the same; giving back does not throw.
      assert.throws(() => device.alloc(256), /GPU stopped/);
      assert.throws(() => {
        device.write(at(a), new Float32Array(1));
      }, /GPU stopped/);
      await assert.rejects(floats(device, a), /GPU stopped/);
      await assert.rejects(table.run(), /GPU stopped/);
      await assert.rejects(table.profile(), /GPU stopped/);
      assert.throws(() => device.bind(steps), /GPU stopped/);
      device.free(a);
      table.dispose();
      await device.close();
    } finally {
      delete process.env['DYNAMOE_CUDA_STEPWISE'];
    }
  }
});

test('a kernel that accesses freed memory is such a failure: the stand-in sees it', { skip }, async () => {
  const device = await CudaDevice.open(),
    step = await copy(device),
    [a, b] = [device.alloc(4 * COUNT), device.alloc(4 * COUNT)],
    table = device.bind([step(b, a)]);
  device.free(b);
  await device.read([]);
  await floats(device, a);
  await table.run();
  await assert.rejects(floats(device, a), /illegal memory access/);
  await device.close();
});

test('closing waits for runs and reads, and refuses what comes later', { skip }, async () => {
  const device = await CudaDevice.open(),
    step = await copy(device),
    [a, b] = [device.alloc(4 * COUNT), device.alloc(4 * COUNT)],
    table = device.bind([step(b, a)]);
  device.write(at(a), numbers(9));
  await table.run();
  const read = floats(device, b),
    closed = device.close();
  assert.throws(() => device.alloc(1), /the cuda device is closed/);
  await closed;
  assert.deepEqual(await read, numbers(9));
  await assert.rejects(table.run(), /the cuda device is closed/);
  await assert.rejects(floats(device, b), /the cuda device is closed/);
  table.dispose();
  device.free(a);
  await device.close();
});

test('two devices on one GPU: each has its stream, closing one leaves the other', { skip }, async (t) => {
  const one = await CudaDevice.open(),
    two = await opened(t),
    [a, b] = [one.alloc(4 * COUNT), two.alloc(4 * COUNT)];
  one.write(at(a), numbers(1));
  two.write(at(b), numbers(2));
  const reads = [floats(one, a), floats(two, b)];
  assert.deepEqual(await Promise.all(reads), [numbers(1), numbers(2)]);
  await one.close();
  assert.deepEqual(await floats(two, b), numbers(2));
});

/** Everything that a device does, and what it gives. */
async function everything(): Promise<readonly unknown[]> {
  const device = await CudaDevice.open();
  try {
    const step = await copy(device),
      [a, b, c] = Array.from({ length: 3 }, () => device.alloc(4 * COUNT)),
      table = device.bind([step(b, a), step(c, a, false), step(a, b)]);
    device.write(at(a), numbers(1));
    await table.run();
    await table.run(0, 1);
    const { ns } = await table.profile(),
      values = await floats(device, c);
    device.free(b);
    table.dispose();
    return [ns.length, values];
  } finally {
    await device.close();
  }
}

test('each call of libcuda that fails is told by its name, or does not matter; nothing hangs', { skip }, async () => {
  const want = await everything(),
    limit = async (): Promise<number | undefined> => {
      const device = await CudaDevice.open();
      await device.close();
      return device.info.limit?.bytes;
    },
    free = await limit();
  let told = 0;
  for (const declaration of declarations()) {
    const [, name] = /(cu\w+?)(?:_v2|WithFlags)?\(/.exec(declaration) ?? [];
    // Its result means nothing, and a context that is not given back would spoil what follows.
    if (name === 'cuDevicePrimaryCtxRelease') continue;
    // Out of memory or invalid value; and launch failed, after which nothing works any more.
    for (const code of [name.includes('Alloc') ? 2 : 1, ...(process.env['DYNAMOE_FULL'] ? [719] : [])])
      for (let n = 1; ; n++) {
        let failed: string | null = null;
        await failing(
          name,
          n,
          async () => {
            const got = await everything().catch((error: unknown) => {
              failed = String(error);
            });
            if (failed === null) assert.deepEqual(got, want);
          },
          code,
        );
        if (!hasFired()) break;
        if (failed === null) continue;
        told++;
        assert.match(failed, new RegExp(`${name}|out of memory|finds no GPU`), `${name}, call ${n}: ${code}`);
        assert.equal(await limit(), free, `${name}, call ${n}: ${code}`);
      }
  }
  assert.ok(told > 50, `${told} calls`);
});

test('each call of NVRTC that fails is told by its name', { skip }, async () => {
  const text = 'DM_KERNEL(nothing, 32, 1) {}\n',
    make = async (): Promise<number> => {
      const nvrtc = await Nvrtc.load(13000);
      return (await nvrtc.compile(text, 'nothing.cu', nvrtc.architecture(99))).length;
    };
  assert.ok((await make()) > 1000);
  for (const declaration of nvrtcDeclarations()) {
    const [, name] = /(nvrtc\w+)\(/.exec(declaration) ?? [];
    if (name.startsWith('nvrtcGetProgramLog')) continue;
    await assert.rejects(failing(name, 1, make), new RegExp(`${name}|NVRTC 13.0 failed on nothing.cu`), name);
  }
  const nvrtc = await Nvrtc.load(13000);
  await assert.rejects(
    nvrtc.compile('DM_KERNEL(wrong, 32, 1) { mistake; }\n', 'wrong.cu', 99),
    /NVRTC 13\.0 failed on wrong\.cu: .*error.*mistake/,
  );
});
