// MNIST's files, valid and broken, and datasets over arrays.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { hostTensor, type Batch } from '../../src/base/tensor.ts';
import { arrays, mnist } from '../../src/data/index.ts';
import { says, temporaryFolder } from '../io/folder.ts';

/** An IDX file's bytes. */
function idx(shape: readonly number[], data: readonly number[], magic = 0x800 | shape.length): Buffer {
  const head = Buffer.alloc(4 + 4 * shape.length);
  head.writeUInt32BE(magic);
  shape.forEach((n, d) => {
    head.writeUInt32BE(n, 4 + 4 * d);
  });
  return Buffer.concat([head, Buffer.from(data)]);
}
const IMAGES = idx(
  [5, 2, 3],
  Array.from({ length: 30 }, (_, i) => i * 8),
);
const LABELS = idx([5], [3, 1, 4, 1, 5]);

async function all(batches: AsyncIterable<Batch>): Promise<Batch[]> {
  const list: Batch[] = [];
  for await (const batch of batches) list.push(batch);
  return list;
}

test('one pair of files is split by the number of training samples; pixels are from 0 to 1', async (t) => {
  const folder = await temporaryFolder(t);
  await writeFile(join(folder, 't10k-images-idx3-ubyte.gz'), gzipSync(IMAGES));
  await writeFile(join(folder, 't10k-labels-idx1-ubyte'), LABELS);
  const data = mnist(folder, { train: 3 });
  const train = await data.all('train'),
    held = await data.all('test');
  assert.deepEqual([train.x.shape, train.y.shape, held.x.shape], [[3, 6], [3], [2, 6]]);
  assert.deepEqual([...train.x.data], [...Float32Array.from({ length: 18 }, (_, i) => (i * 8) / 255)]);
  assert.deepEqual([...train.y.data, ...held.y.data], [3, 1, 4, 1, 5]);
  assert.deepEqual(await all(data.pass({ size: 4 })), [{ ...held, ids: Int32Array.of(0, 1) }]);
  assert.equal((await mnist(folder).all('train')).x.shape[0], 4);
  const normal = await mnist(folder, { train: 3, normalise: true }).all('train');
  assert.ok(Math.abs(normal.x.data[0] - -0.1307 / 0.3081) < 1e-6);
  await assert.rejects(mnist(folder, { train: 6 }).all('train'), says('6 samples', 'there are 5'));
  await assert.rejects(
    mnist(folder, { train: 5 }).batches({ size: 1, split: 'test' }).at(0),
    says('mnist', 'test split has no samples'),
  );
});

test('separate files for training and testing are used for these splits', async (t) => {
  const folder = await temporaryFolder(t);
  await writeFile(
    join(folder, 'train-images.idx3-ubyte'),
    idx(
      [2, 2, 3],
      Array.from({ length: 12 }, (_, i) => i * 20),
    ),
  );
  await writeFile(join(folder, 'train-labels-idx1-ubyte.gz'), gzipSync(idx([2], [7, 8])));
  await writeFile(join(folder, 't10k-images-idx3-ubyte'), IMAGES);
  await writeFile(join(folder, 't10k-labels-idx1-ubyte'), LABELS);
  assert.deepEqual([...(await mnist(folder).all('train')).y.data], [7, 8]);
  assert.deepEqual((await mnist(folder, { train: 1 }).all('test')).y.shape, [5]);
  assert.deepEqual((await mnist(folder, { train: 1 }).all('train')).y.shape, [1]);
});

test('errors of broken files name the file, the position and what was expected', async (t) => {
  const folder = await temporaryFolder(t);
  const images = join(folder, 'images'),
    labels = join(folder, 'labels');
  await writeFile(labels, LABELS);
  const broken = async (bytes: Buffer, ...words: string[]): Promise<void> => {
    await writeFile(images, bytes);
    await assert.rejects(mnist({ images, labels }).all('train'), says(...words));
  };
  await broken(Buffer.alloc(0), 'images: at byte 0', 'magic', 'ends at byte 0');
  await broken(LABELS, 'images: at byte 0', '0x00000803', '3 dimensions', 'found 0x00000801');
  await broken(IMAGES.subarray(0, 9), 'images: at byte 4', 'sizes of 3 dimensions', 'ends at byte 9');
  await broken(IMAGES.subarray(0, 40), 'images: at byte 16', '30 bytes (5 x 2 x 3)', 'found 24');
  await broken(Buffer.concat([IMAGES, LABELS]), 'images: at byte 16', '30 bytes', 'found 43');
  await broken(idx([4294967295, 65535, 65535], []), 'images: at byte 16', 'found 0');
  await broken(gzipSync(IMAGES).subarray(0, 30), 'images', 'gzip', 'breaks off', 'byte 30');
  await broken(Buffer.from([0x1f, 0x8b, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), 'images', 'gzip');
  // Only as many bytes are unpacked as the header names.
  await broken(
    gzipSync(Buffer.concat([IMAGES, Buffer.alloc(1 << 20)])),
    'images: at byte 16',
    '30 bytes (5 x 2 x 3)',
    'found more',
  );
  await broken(gzipSync(IMAGES.subarray(0, 40)), 'images: at byte 16', '30 bytes', 'found 24');
  await broken(gzipSync(Buffer.alloc(0)), 'images: at byte 0', 'ends at byte 0');
  await broken(gzipSync(idx([4294967295, 65535, 65535], [])), 'images holds', '4294967295 x 65535 x 65535', 'are free');
  await broken(idx([1, 1, 1], [0]), 'images has 1 images', 'labels has 5 labels');
  await assert.rejects(mnist({ images: join(folder, 'none'), labels }).all('train'), says('none', 'no such file'));
  await assert.rejects(mnist(folder).all('train'), says(folder, 'no MNIST files', 't10k'));
  await writeFile(join(folder, 'train-images-idx3-ubyte'), IMAGES);
  await assert.rejects(
    mnist(folder).all('train'),
    says('train-images-idx3-ubyte but not its labels', 'train-labels-idx1-ubyte'),
  );
  await assert.rejects(mnist(join(folder, 'nowhere')).all('train'), says('nowhere', 'no such file'));
});

test('a gzip file that unpacks to gigabytes is refused after the bytes that its header names', async (t) => {
  const folder = await temporaryFolder(t),
    images = join(folder, 'images.gz'),
    labels = join(folder, 'labels'),
    piece = gzipSync(Buffer.alloc(16 << 20));
  await writeFile(labels, LABELS);
  // A gzip file may consist of several parts. These unpack to 16 GiB from 16 MB.
  await writeFile(images, Buffer.concat([gzipSync(IMAGES), ...Array.from({ length: 1024 }, () => piece)]));
  const before = process.resourceUsage().maxRSS;
  await assert.rejects(
    mnist({ images, labels }).all('train'),
    says('images.gz: at byte 16', '30 bytes (5 x 2 x 3)', 'found more'),
  );
  assert.ok(process.resourceUsage().maxRSS - before < 256 * 1024, 'only the bytes that the header names are unpacked');
});

test('a label must be one of the classes', async (t) => {
  const folder = await temporaryFolder(t),
    images = join(folder, 'images'),
    labels = join(folder, 'labels');
  await writeFile(images, IMAGES);
  const load = async (marks: readonly number[], options = {}): Promise<number[]> => {
    await writeFile(labels, idx([5], marks));
    return Array.from((await mnist({ images, labels }, { train: 5, ...options }).all('train')).y.data);
  };
  await assert.rejects(
    load([3, 1, 12, 1, 5]),
    says('labels: at byte 10', 'a label from 0 to 9', 'sample 2', 'found 12', '`classes`'),
  );
  assert.deepEqual(await load([3, 1, 12, 1, 5], { classes: 13 }), [3, 1, 12, 1, 5]);
  await assert.rejects(load([3, 1, 12, 1, 5], { classes: 12 }), says('a label from 0 to 11'));
  for (const classes of [0, 257, 2.5, NaN, '10' as never])
    assert.throws(() => mnist(folder, { classes }), says('classes must be a whole number from 1 to 256'));
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.nat(255), { minLength: 5, maxLength: 5 }),
      fc.integer({ min: 1, max: 256 }),
      async (marks, classes) => {
        const wrong = marks.findIndex((label) => label >= classes);
        if (wrong < 0) assert.deepEqual(await load(marks, { classes }), marks);
        else
          await assert.rejects(
            load(marks, { classes }),
            says(`at byte ${8 + wrong}`, `from 0 to ${classes - 1}`, `found ${marks[wrong]}`),
          );
      },
    ),
    { numRuns: 100 },
  );
});

test('arrays: rows follow from ids, batches from seed and step; a pass gives each sample once', async () => {
  const x = hostTensor(
      'float32',
      [6, 2],
      Array.from({ length: 12 }, (_, i) => i),
    ),
    y = hostTensor('int32', [6], [0, 1, 2, 3, 4, 5]);
  const data = arrays({ x, y }, { train: 4 });
  const first = await all(data.batches({ size: 3, seed: 9, limit: 8 }));
  for (const [step, { x: bx, y: by, ids }] of first.entries()) {
    assert.deepEqual([bx.shape, by.shape, bx.dtype, by.dtype], [[3, 2], [3], 'float32', 'int32']);
    assert.deepEqual([...by.data], [...(ids ?? [])]);
    assert.deepEqual(
      [...bx.data],
      [...by.data].flatMap((i) => [2 * i, 2 * i + 1]),
    );
    assert.deepEqual(await data.batches({ size: 3, seed: 9 }).at(step), first[step]);
  }
  const seen = first.flatMap((b) => [...(b.ids ?? [])]);
  for (let e = 0; e < 24; e += 4) assert.deepEqual(seen.slice(e, e + 4).sort(), [0, 1, 2, 3]);
  const pass = await all(data.pass({ size: 4, split: 'train' }));
  assert.deepEqual(
    pass.map((b) => [...b.y.data]),
    [[0, 1, 2, 3]],
  );
  assert.deepEqual(
    (await all(arrays({ x, y }).pass({ size: 4, split: 'train' }))).map((b) => b.y.shape),
    [[4], [2]],
  );
  await assert.rejects(all(arrays({ x, y }).pass({ size: 4 })), says('test split has no samples'));
  assert.throws(() => arrays({ x, y: hostTensor('int32', [5], [0, 0, 0, 0, 0]) }), /x is \[6, 2\] and y is \[5\]/);
  assert.notEqual(await data.fingerprint(), await arrays({ x, y }).fingerprint());
  assert.equal(await data.fingerprint(), await arrays({ x, y }, { train: 4 }).fingerprint());
});

const shared = fileURLToPath(new URL('../../../shared/data', import.meta.url));
const has = existsSync(join(shared, 't10k-images-idx3-ubyte.gz'));

test('the 10,000 test digits of MNIST', { skip: !has && `needs ${shared}` }, async () => {
  const data = mnist(shared, { train: 8000 });
  const train = await data.all('train'),
    held = await data.all('test');
  assert.deepEqual(
    [train.x.shape, held.x.shape],
    [
      [8000, 784],
      [2000, 784],
    ],
  );
  assert.deepEqual([...train.y.data.subarray(0, 10)], [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]);
  const counts = new Array<number>(10).fill(0);
  for (const label of [...train.y.data, ...held.y.data]) counts[label]++;
  assert.deepEqual(counts, [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]);
  const mean = (train.x.data as Float32Array).reduce((a, b) => a + b, 0) / train.x.data.length;
  assert.ok(mean > 0.12 && mean < 0.14, `mean ${mean}`);
});
