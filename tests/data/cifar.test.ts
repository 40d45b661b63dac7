// CIFAR's binary files, valid and broken.
import assert from 'node:assert/strict';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { cifar10, cifar100 } from '../../src/data/index.ts';
import { says, temporaryFolder } from '../io/folder.ts';

/** A record: labels, then three planes of pixels; the byte of a pixel follows from plane, row and column. */
function record(labels: readonly number[], seed: number): Buffer {
  const pixels = Array.from(
    { length: 3072 },
    (_, i) => (Math.floor(i / 1024) * 80 + Math.floor((i % 1024) / 32) + (i % 32) + seed) % 256,
  );
  return Buffer.from([...labels, ...pixels]);
}
const pixel = (seed: number, row: number, column: number, channel: number): number =>
  Math.fround(((channel * 80 + row + column + seed) % 256) / 255);

const TEN = [
  'data_batch_1.bin',
  'data_batch_2.bin',
  'data_batch_3.bin',
  'data_batch_4.bin',
  'data_batch_5.bin',
  'test_batch.bin',
];

test('CIFAR-10: batches in order, images as [height, width, channels]', async (t) => {
  const folder = await temporaryFolder(t);
  for (const [i, name] of TEN.entries())
    await writeFile(join(folder, name), Buffer.concat([record([i], i), record([9 - i], 100 + i)]));
  const { x, y } = await cifar10(folder).all('train'),
    held = await cifar10(folder).all('test');
  assert.deepEqual(
    [x.shape, y.shape, held.x.shape, x.dtype, y.dtype],
    [[10, 32, 32, 3], [10], [2, 32, 32, 3], 'float32', 'int32'],
  );
  assert.deepEqual([...y.data, ...held.y.data], [0, 9, 1, 8, 2, 7, 3, 6, 4, 5, 5, 4]);
  for (const [image, row, column, channel] of [
    [0, 0, 0, 0],
    [0, 0, 1, 2],
    [3, 31, 30, 1],
    [9, 7, 31, 2],
  ]) {
    const seed = image % 2 === 0 ? image / 2 : 100 + (image - 1) / 2;
    assert.equal(x.data[((image * 32 + row) * 32 + column) * 3 + channel], pixel(seed, row, column, channel));
  }
  const normal = await cifar10(folder, { normalise: true }).all('train');
  [0.4914, 0.4822, 0.4465].forEach((mean, c) => {
    assert.ok(Math.abs(normal.x.data[c] - (x.data[c] - mean) / [0.247, 0.2435, 0.2616][c]) < 1e-6);
  });
});

test('CIFAR-100: fine or coarse labels', async (t) => {
  const folder = await temporaryFolder(t);
  await writeFile(join(folder, 'train.bin'), Buffer.concat([record([19, 99], 1), record([0, 3], 2)]));
  await writeFile(join(folder, 'test.bin'), record([7, 50], 3));
  assert.deepEqual([...(await cifar100(folder).all('train')).y.data], [99, 3]);
  assert.deepEqual([...(await cifar100(folder, { labels: 'coarse' }).all('train')).y.data], [19, 0]);
  assert.equal((await cifar100(folder).all('test')).x.data[5], pixel(3, 0, 1, 2));
});

test('errors of broken files name the file, the position and what was expected', async (t) => {
  const folder = await temporaryFolder(t),
    path = join(folder, 'data_batch_2.bin');
  await assert.rejects(
    cifar10(folder).all('train'),
    says(folder, 'no CIFAR-10 files', 'data_batch_1.bin', 'cifar-10-binary.tar.gz'),
  );
  for (const name of TEN) await writeFile(join(folder, name), record([1], 0));
  const broken = async (bytes: Buffer, ...words: string[]): Promise<void> => {
    await writeFile(path, bytes);
    await assert.rejects(cifar10(folder).all('train'), says('data_batch_2.bin', ...words));
  };
  await broken(Buffer.alloc(0), 'at byte 0', 'records of 3073 bytes', 'an empty file');
  await broken(record([1], 0).subarray(0, 3000), 'at byte 0', '3073 bytes', 'last 3000');
  await broken(
    Buffer.concat([record([1], 0), record([1], 0), Buffer.alloc(5)]),
    'at byte 6146',
    '3073 bytes',
    'last 5',
  );
  await broken(
    Buffer.concat([record([1], 0), record([10], 0)]),
    'at byte 3073',
    'label from 0 to 9 (record 1)',
    'found 10',
  );
  await rm(path);
  await assert.rejects(
    cifar10(folder).all('test'),
    says(folder, 'only some of the CIFAR-10 files: data_batch_2.bin is not there'),
  );
  await assert.rejects(cifar10(join(folder, 'nowhere')).all('train'), says('nowhere', 'no such file'));
  await writeFile(join(folder, 'train.bin'), record([20, 0], 0));
  await writeFile(join(folder, 'test.bin'), record([19, 100], 0));
  await assert.rejects(cifar100(folder).all('train'), says('train.bin', 'at byte 0', 'label from 0 to 19', 'found 20'));
  await writeFile(join(folder, 'train.bin'), record([19, 0], 0));
  await assert.rejects(cifar100(folder).all('test'), says('test.bin', 'at byte 1', 'label from 0 to 99', 'found 100'));
  await writeFile(join(folder, 'test.bin'), record([0], 0));
  await assert.rejects(
    cifar100(folder).all('test'),
    says('test.bin', 'at byte 0', '3074 bytes (2 of labels, 3072 of pixels)', 'last 3073'),
  );
});
