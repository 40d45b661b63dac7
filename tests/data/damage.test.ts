// Dataset files with random damage: each is refused by name, or its tensors have the values of its bytes.
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { UserError } from '../../src/base/errors.ts';
import { hostTensor, type Batch } from '../../src/base/tensor.ts';
import { arrays, cifar10, mnist } from '../../src/data/index.ts';
import { says, temporaryFolder } from '../io/folder.ts';

/** One to three random damages; each has a kind, a position and an amount. */
const damages = fc.array(
  fc.record({
    kind: fc.constantFrom('cut', 'add', 'flip', 'zero', 'drop'),
    at: fc.nat(),
    by: fc.integer({ min: 1, max: 255 }),
  }),
  { minLength: 1, maxLength: 3 },
);

function damaged(
  bytes: Buffer,
  list: readonly { readonly kind: string; readonly at: number; readonly by: number }[],
): Buffer {
  return list.reduce((before, { kind, at, by }) => {
    const out = Buffer.from(before),
      place = at % Math.max(1, out.length);
    switch (kind) {
      case 'cut':
        return out.subarray(0, place);
      case 'add':
        return Buffer.concat([out, Buffer.alloc(by, at)]);
      case 'zero':
        out.subarray(place, place + by).fill(0);
        return out;
      case 'drop':
        return Buffer.concat([out.subarray(0, place), out.subarray(place + by)]);
      default:
        if (out.length > 0) out[place] ^= by;
        return out;
    }
  }, bytes);
}

/** The batch that `load` reads; null if `load` throws a UserError with the name of the file. */
async function read(load: () => Promise<Batch>, name: string): Promise<Batch | null> {
  try {
    return await load();
  } catch (error) {
    assert.ok(error instanceof UserError && error.message.includes(name), String(error));
    return null;
  }
}

/** An IDX file's bytes. */
function idx(shape: readonly number[], data: readonly number[]): Buffer {
  const head = Buffer.alloc(4 + 4 * shape.length);
  head.writeUInt32BE(0x800 | shape.length);
  shape.forEach((n, d) => {
    head.writeUInt32BE(n, 4 + 4 * d);
  });
  return Buffer.concat([head, Buffer.from(data)]);
}

const PIXELS = Array.from({ length: 6 * 4 * 5 }, (_, i) => (i * 7) % 256),
  HEAD = 16;

test('IDX: random damage of images is refused, or the images have the values of the bytes', async (t) => {
  const folder = await temporaryFolder(t),
    images = join(folder, 'images'),
    labels = join(folder, 'labels'),
    whole = idx([6, 4, 5], PIXELS);
  await writeFile(labels, idx([6], [0, 1, 2, 3, 4, 5]));
  await fc.assert(
    fc.asyncProperty(damages, async (list) => {
      const bytes = damaged(whole, list);
      await writeFile(images, bytes);
      const found = await read(() => mnist({ images, labels }, { train: 6 }).all('train'), 'images');
      if (!found) return;
      // Damaged pixels cannot be noticed: the format has no checksum.
      const [count, height, width] = [4, 8, 12].map((at) => bytes.readUInt32BE(at));
      assert.deepEqual([found.x.shape, found.y.shape], [[6, height * width], [6]]);
      assert.equal(count, 6);
      assert.deepEqual(
        Array.from(found.x.data),
        Array.from(bytes.subarray(HEAD), (p) => Math.fround(p / 255)),
      );
    }),
    { numRuns: 200 },
  );
});

test('IDX: random damage of a gzip stream is refused, or the images are unchanged', async (t) => {
  const folder = await temporaryFolder(t),
    images = join(folder, 'images.gz'),
    labels = join(folder, 'labels'),
    whole = gzipSync(idx([6, 4, 5], PIXELS));
  await writeFile(labels, idx([6], [0, 1, 2, 3, 4, 5]));
  await fc.assert(
    fc.asyncProperty(damages, async (list) => {
      await writeFile(images, damaged(whole, list));
      const found = await read(() => mnist({ images, labels }, { train: 6 }).all('train'), 'images.gz');
      if (found)
        assert.deepEqual(
          Array.from(found.x.data),
          PIXELS.map((p) => Math.fround(p / 255)),
        );
    }),
    { numRuns: 200 },
  );
});

test('CIFAR: random damage is refused, or the images have the values of the bytes', async (t) => {
  const folder = await temporaryFolder(t),
    record = (label: number): Buffer =>
      Buffer.from([label, ...Array.from({ length: 3072 }, (_, i) => (i * 5 + label) % 256)]);
  for (const name of [1, 2, 3, 4, 5].map((n) => `data_batch_${n}.bin`)) await writeFile(join(folder, name), record(1));
  const whole = Buffer.concat([record(3), record(7)]);
  await fc.assert(
    fc.asyncProperty(damages, async (list) => {
      const bytes = damaged(whole, list);
      await writeFile(join(folder, 'test_batch.bin'), bytes);
      const found = await read(() => cifar10(folder).all('test'), 'test_batch.bin');
      if (!found) return;
      assert.equal(found.x.shape[0], bytes.length / 3073);
      assert.deepEqual(
        Array.from(found.y.data),
        Array.from({ length: bytes.length / 3073 }, (_, i) => bytes[3073 * i]),
      );
      assert.deepEqual(
        [0, 1, 2].map((c) => found.x.data[c]),
        [0, 1, 2].map((c) => Math.fround(bytes[1 + 1024 * c] / 255)),
      );
    }),
    { numRuns: 60 },
  );
});

test('files of a dataset that do not fit together are refused by name', async (t) => {
  const folder = await temporaryFolder(t),
    write = (name: string, bytes: Buffer): Promise<void> => writeFile(join(folder, name), bytes);
  await write('train-images-idx3-ubyte', idx([2, 2, 3], PIXELS.slice(0, 12)));
  await write('train-labels-idx1-ubyte', idx([2], [0, 1]));
  await write('t10k-images-idx3-ubyte', idx([2, 3, 2], PIXELS.slice(0, 12)));
  await write('t10k-labels-idx1-ubyte', idx([2], [0, 1]));
  await assert.rejects(
    mnist(folder).all('train'),
    says('train-images-idx3-ubyte has images of 2 x 3 pixels', 't10k-images-idx3-ubyte of 3 x 2'),
  );
  for (const shape of [
    [0, 2, 3],
    [2, 0, 3],
    [2, 2, 0],
  ]) {
    await write('train-images-idx3-ubyte', idx(shape, []));
    await write('train-labels-idx1-ubyte', idx([shape[0]], [0, 1].slice(0, shape[0])));
    await assert.rejects(mnist(folder).all('train'), says('train-images-idx3-ubyte holds no pixel', shape.join(' x ')));
  }
});

test('arrays refuses data that does not fit its shape or is not a tensor', () => {
  const x = hostTensor('float32', [2, 2], [1, 2, 3, 4]),
    y = hostTensor('int32', [2], [0, 1]);
  assert.throws(
    () => arrays({ x: { ...x, data: new Float32Array(3) }, y }),
    /a float32 tensor of shape \[2, 2\] has 4 elements, got 3/,
  );
  assert.throws(
    () => arrays({ x: { ...x, data: Float64Array.of(1, 2, 3, 4) }, y }),
    says('arrays: x is float32, its data a Float64Array'),
  );
  assert.throws(() => arrays({ x: [[1, 2]] as never, y }), says('arrays: x must be a tensor of the host'));
  assert.throws(() => arrays({ x } as never), says('arrays: y must be a tensor of the host'));
  assert.throws(() => arrays(undefined as never), says('arrays: x must be a tensor of the host'));
  assert.throws(() => arrays({ x: { ...x, shape: [-2, -2] }, y }), /\[-2, -2\] is no shape/);
});
