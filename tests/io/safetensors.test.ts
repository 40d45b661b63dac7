// The safetensors format: what is written is read, other writers' files are read, and damage is found and located.
import assert from 'node:assert/strict';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { bytesPer, DTYPES, hostArray, type DType } from '../../src/base/dtype.ts';
import { bytesOf } from '../../src/io/safetensors-data.ts';
import type { TensorSource } from '../../src/io/safetensors-bytes.ts';
import { openSafetensors, writeSafetensors } from '../../src/io/safetensors-file.ts';
import { says, temporaryFolder } from './folder.ts';

/** A file as another writer may make it. */
function file(header: string | object, data: Uint8Array | number = 0): Buffer {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, json, typeof data === 'number' ? Buffer.alloc(data) : data]);
}

const tensor = fc.record({
  name: fc.string({ unit: 'grapheme', maxLength: 12 }).filter((n) => n !== '__metadata__'),
  dtype: fc.constantFrom<DType>(...DTYPES),
  shape: fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 4 }),
  seed: fc.uint8Array({ minLength: 8, maxLength: 8 }),
});

test('any tensors and metadata come back bit for bit, aligned, and the same tensors give the same bytes', async (t) => {
  const folder = await temporaryFolder(t);
  const path = join(folder, 'any.safetensors'), again = join(folder, 'again.safetensors');
  await fc.assert(fc.asyncProperty(
    fc.uniqueArray(tensor, { selector: (x) => x.name, maxLength: 6 }),
    fc.dictionary(fc.string({ maxLength: 6 }).filter((k) => k !== '__proto__'), fc.string({ maxLength: 20 })),
    async (specs, metadata) => {
      const sources = specs.map(({ name, dtype, shape, seed }): TensorSource => {
        const data = hostArray(dtype, shape.reduce((n, d) => n * d, 1));
        bytesOf(data).forEach((_, i, all) => { all[i] = dtype === 'bool' ? seed[i % 8] & 1 : seed[i % 8] ^ i; });
        return { name, dtype, shape, data: () => data };
      });
      await writeSafetensors(path, sources, metadata);
      await writeSafetensors(again, sources.toReversed(), metadata);
      assert.deepEqual(await readFile(path), await readFile(again));
      const opened = await openSafetensors(path);
      assert.deepEqual(Object.fromEntries(opened.metadata), { ...metadata });
      assert.equal(opened.tensors.size, sources.length);
      for (const { name, dtype, shape, data } of sources) {
        const read = await opened.read(name);
        assert.deepEqual([read.dtype, read.shape], [dtype, shape]);
        assert.deepEqual(bytesOf(read.data), bytesOf(await data()));
        assert.equal((opened.tensors.get(name)?.begin ?? 1) % bytesPer(dtype), 0);
      }
      await opened.close();
    },
  ), { numRuns: 40 });
});

test('the bytes are the format\'s: length, JSON, data', async (t) => {
  const path = join(await temporaryFolder(t), 'a.safetensors');
  await writeSafetensors(path, [
    { name: 'w', dtype: 'float32', shape: [2, 1], data: () => Float32Array.of(1, -2) },
    { name: 'flag', dtype: 'bool', shape: [], data: () => Promise.resolve(Uint8Array.of(1)) },
  ], { k: 'v' });
  const bytes = await readFile(path);
  const length = Number(bytes.readBigUInt64LE());
  assert.equal(length % 8, 0);
  assert.deepEqual(JSON.parse(bytes.toString('utf8', 8, 8 + length)), {
    __metadata__: { k: 'v' },
    w: { dtype: 'F32', shape: [2, 1], data_offsets: [0, 8] },
    flag: { dtype: 'BOOL', shape: [], data_offsets: [8, 9] },
  });
  assert.deepEqual([bytes.readFloatLE(8 + length), bytes.readFloatLE(12 + length), bytes[16 + length]], [1, -2, 1]);
  assert.equal(bytes.length, 8 + length + 9);
});

test('wider and narrower integers of other writers become ours where they fit', async (t) => {
  const path = join(await temporaryFolder(t), 'ints.safetensors');
  const data = Buffer.alloc(16 + 8 + 2 + 2 + 2);
  data.writeBigInt64LE(-5n, 0); data.writeBigInt64LE(2147483647n, 8); data.writeBigUInt64LE(4294967295n, 16);
  data.writeInt16LE(-3, 24); data.writeUInt16LE(65535, 26); data.writeInt8(-1, 28); data.writeUInt8(255, 29);
  await writeFile(path, file({
    i64: { dtype: 'I64', shape: [2], data_offsets: [0, 16] }, u64: { dtype: 'U64', shape: [1], data_offsets: [16, 24] },
    i16: { dtype: 'I16', shape: [1], data_offsets: [24, 26] }, u16: { dtype: 'U16', shape: [1], data_offsets: [26, 28] },
    i8: { dtype: 'I8', shape: [1], data_offsets: [28, 29] }, u8: { dtype: 'U8', shape: [], data_offsets: [29, 30] },
  }, data));
  const opened = await openSafetensors(path);
  t.after(() => opened.close());
  assert.deepEqual((await opened.read('i64')).data, Int32Array.of(-5, 2147483647));
  assert.deepEqual((await opened.read('u64')).data, Uint32Array.of(4294967295));
  assert.deepEqual((await opened.read('i16')).data, Int32Array.of(-3));
  assert.deepEqual((await opened.read('u16')).data, Int32Array.of(65535));
  assert.deepEqual((await opened.read('i8')).data, Int32Array.of(-1));
  assert.deepEqual(await opened.read('u8'), { dtype: 'int32', shape: [], data: Int32Array.of(255) });
  await assert.rejects(opened.read('x'), says(path, 'no tensor "x"', 'i64'));
  const raw = new Uint8Array(2);
  await opened.readInto('i16', raw);
  assert.deepEqual([...raw], [0xfd, 0xff]);
  await assert.rejects(opened.readInto('i16', new Uint8Array(3)), /2 bytes, asked for 3/);
});

const F32 = { dtype: 'F32', shape: [2], data_offsets: [0, 8] };
const CASES: readonly [string, Buffer, readonly string[]][] = [
  ['an empty file', Buffer.alloc(0), ['byte 0', 'the file has 0']],
  ['text', Buffer.from('To be, or not to be'), ['byte 0', 'at most 100000000']],
  ['a header beyond the end', file({ a: F32 }, 8).subarray(0, 20), ['byte 0', 'the file has 12']],
  ['data cut short', file({ a: F32 }, 7), ['expected the file to end at byte']],
  ['bytes after the data', file({ a: F32 }, 9), ['expected the file to end at byte']],
  ['no JSON', file('{"a":', 0), ['byte 8', 'JSON']],
  ['no UTF-8', file('\xff', 0).fill(0xff, 8), ['byte 8', 'UTF-8']],
  ['a list', file([], 0), ['byte 8', 'object']],
  ['a tensor that is null', file({ a: null }, 0), ['"a"', 'object']],
  ['an unknown dtype', file({ a: { ...F32, dtype: 'toString' } }, 8), ['"a"', 'known dtype', 'toString']],
  ['a negative size', file({ a: { ...F32, shape: [-2] } }, 8), ['"a"', 'shape', '-2']],
  ['a size that is no number', file({ a: { ...F32, shape: ['2'] } }, 8), ['"a"', 'shape']],
  ['one offset', file({ a: { ...F32, data_offsets: [0] } }, 8), ['"a"', 'data_offsets']],
  ['sizes that disagree', file({ a: { ...F32, shape: [3] } }, 8), ['"a"', '12 bytes', 'give 8']],
  ['sizes that overflow', file({ a: { ...F32, shape: [2 ** 40, 2 ** 40] } }, 8), ['"a"', 'give 8']],
  ['a gap', file({ a: F32, b: { ...F32, data_offsets: [9, 17] } }, 17), ['"b"', 'begin']],
  ['an overlap', file({ a: F32, b: { ...F32, data_offsets: [4, 12] } }, 12), ['"b"', 'begin']],
  ['a name that stands twice',
    file('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', 2), ['"a"', 'begin']],
  ['metadata that is no text', file({ __metadata__: { n: 1 } }, 0), ['__metadata__.n', 'string']],
];

test('damage is refused with the file and the place', async (t) => {
  const folder = await temporaryFolder(t);
  for (const [name, bytes, words] of CASES) {
    const path = join(folder, 'bad.safetensors');
    await writeFile(path, bytes);
    await t.test(name, async () => { await assert.rejects(openSafetensors(path), says('bad.safetensors is not a sound', ...words)); });
  }
  await assert.rejects(openSafetensors(join(folder, 'none')), says('cannot read', 'none', 'no such file'));
  await assert.rejects(openSafetensors(folder), says('cannot read', folder, 'it is a folder'));
});

test('any cut of a file, and any flip in its header, is refused or read as what it says', async (t) => {
  const path = join(await temporaryFolder(t), 'cut.safetensors');
  const whole = file({ a: F32, b: { ...F32, data_offsets: [8, 16] } }, 16);
  await fc.assert(fc.asyncProperty(fc.nat(whole.length - 1), async (n) => {
    await writeFile(path, whole.subarray(0, n));
    await assert.rejects(openSafetensors(path), says('not a sound'));
  }), { numRuns: 30 });
  await fc.assert(fc.asyncProperty(fc.nat(whole.length - 17), fc.integer({ min: 1, max: 255 }), async (at, flip) => {
    const bytes = Buffer.from(whole);
    bytes[at] ^= flip;
    await writeFile(path, bytes);
    const opened = await openSafetensors(path).catch((error: unknown) => { says()(error); });
    await opened?.close(); // a changed name is still a sound file
  }), { numRuns: 60 });
});

test('values that our types cannot hold are refused with their place', async (t) => {
  const path = join(await temporaryFolder(t), 'v.safetensors');
  const data = Buffer.alloc(25);
  data.writeBigInt64LE(2147483648n, 8); data[16] = 2;
  await writeFile(path, file({
    a: { dtype: 'I64', shape: [2], data_offsets: [0, 16] }, b: { dtype: 'BOOL', shape: [1], data_offsets: [16, 17] },
    c: { dtype: 'C64', shape: [1], data_offsets: [17, 25] },
  }, data));
  const opened = await openSafetensors(path);
  t.after(() => opened.close());
  await assert.rejects(opened.read('a'), says('2147483648', 'fits int32', '"a"', 'element 1'));
  await assert.rejects(opened.read('b'), says('0 or 1', '"b"'));
  await assert.rejects(opened.read('c'), says('"c"', 'C64'));
});

test('a file that is replaced or cut while open', async (t) => {
  const path = join(await temporaryFolder(t), 'r.safetensors');
  const write = (v: number): Promise<void> =>
    writeSafetensors(path, [{ name: 'a', dtype: 'int32', shape: [1], data: () => Int32Array.of(v) }]);
  await write(1);
  const opened = await openSafetensors(path);
  t.after(() => opened.close());
  await write(2);
  assert.deepEqual((await opened.read('a')).data, Int32Array.of(1));
  const second = await openSafetensors(path);
  t.after(() => second.close());
  assert.deepEqual((await second.read('a')).data, Int32Array.of(2));
  await writeFile(path, (await readFile(path)).subarray(0, -2));
  await assert.rejects(second.read('a'), says('2 more bytes'));
});

test('a wrong array or the same name twice is an error and leaves nothing behind', async (t) => {
  const path = join(await temporaryFolder(t), 'w.safetensors');
  const one = (data: () => Float32Array | Uint8Array): TensorSource => ({ name: 'a', dtype: 'float32', shape: [2], data });
  await assert.rejects(writeSafetensors(path, [one(() => new Float32Array(3))]), /needs 2 elements/);
  await assert.rejects(writeSafetensors(path, [one(() => new Uint8Array(2))]), /of 4 bytes, got 2 of 1/);
  const good = one(() => new Float32Array(2));
  await assert.rejects(writeSafetensors(path, [good, good]), says('two tensors', '"a"'));
  await assert.rejects(stat(path), { code: 'ENOENT' });
});

test('tensors over shared memory and views into larger arrays are written', async (t) => {
  const path = join(await temporaryFolder(t), 's.safetensors');
  const shared = new Float32Array(new SharedArrayBuffer(16), 4, 2);
  shared.set([3, 4]);
  await writeSafetensors(path, [{ name: 'a', dtype: 'float32', shape: [2], data: () => shared }]);
  const opened = await openSafetensors(path);
  t.after(() => opened.close());
  assert.deepEqual((await opened.read('a')).data, Float32Array.of(3, 4));
});
