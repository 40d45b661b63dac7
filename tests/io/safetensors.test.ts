// Tests the safetensors format: written files are read back, files of other programs are read, and damage is found and
// located.
import assert from 'node:assert/strict';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { convert } from '../../src/base/convert.ts';
import { bytesPer, DTYPES, hostArray, type DType } from '../../src/base/dtype.ts';
import type { HostTensor } from '../../src/base/tensor.ts';
import { bytesOf } from '../../src/base/same.ts';
import { bytesSource, openSource, readSafetensors, type TensorSource } from '../../src/io/safetensors-bytes.ts';
import { openSafetensors, writeSafetensors } from '../../src/io/safetensors-file.ts';
import { says, temporaryFolder } from './folder.ts';

/** A file as another program may write it. */
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

test('tensors and metadata are read back bit for bit and aligned; the same tensors give the same bytes', async (t) => {
  const folder = await temporaryFolder(t);
  const path = join(folder, 'any.safetensors'),
    again = join(folder, 'again.safetensors');
  await fc.assert(
    fc.asyncProperty(
      fc.uniqueArray(tensor, { selector: (x) => x.name, maxLength: 6 }),
      fc.dictionary(
        fc.string({ maxLength: 6 }).filter((k) => k !== '__proto__'),
        fc.string({ maxLength: 20 }),
      ),
      async (specs, metadata) => {
        const sources = specs.map(({ name, dtype, shape, seed }): TensorSource => {
          const data = hostArray(
            dtype,
            shape.reduce((n, d) => n * d, 1),
          );
          bytesOf(data).forEach((_, i, all) => {
            all[i] = dtype === 'bool' ? seed[i % 8] & 1 : seed[i % 8] ^ i;
          });
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
    ),
    { numRuns: 40 },
  );
});

test('a file has the bytes of the format: length, JSON, data', async (t) => {
  const path = join(await temporaryFolder(t), 'a.safetensors');
  await writeSafetensors(
    path,
    [
      { name: 'w', dtype: 'float32', shape: [2, 1], data: () => Float32Array.of(1, -2) },
      { name: 'flag', dtype: 'bool', shape: [], data: () => Promise.resolve(Uint8Array.of(1)) },
    ],
    { k: 'v' },
  );
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

test('wider and narrower integers of other programs are converted if their values fit', async (t) => {
  const path = join(await temporaryFolder(t), 'ints.safetensors');
  const data = Buffer.alloc(16 + 8 + 2 + 2 + 2);
  data.writeBigInt64LE(-5n, 0);
  data.writeBigInt64LE(2147483647n, 8);
  data.writeBigUInt64LE(4294967295n, 16);
  data.writeInt16LE(-3, 24);
  data.writeUInt16LE(65535, 26);
  data.writeInt8(-1, 28);
  data.writeUInt8(255, 29);
  await writeFile(
    path,
    file(
      {
        i64: { dtype: 'I64', shape: [2], data_offsets: [0, 16] },
        u64: { dtype: 'U64', shape: [1], data_offsets: [16, 24] },
        i16: { dtype: 'I16', shape: [1], data_offsets: [24, 26] },
        u16: { dtype: 'U16', shape: [1], data_offsets: [26, 28] },
        i8: { dtype: 'I8', shape: [1], data_offsets: [28, 29] },
        u8: { dtype: 'U8', shape: [], data_offsets: [29, 30] },
      },
      data,
    ),
  );
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
  ['data cut short', file({ a: F32 }, 7), ['tensor "a" to end in the file', 'may be cut short']],
  ['bytes after the data', file({ a: F32 }, 9), ['expected the file to end at byte', 'where "a" ends']],
  ['no JSON', file('{"a":', 0), ['byte 8', 'JSON']],
  ['no UTF-8', file('\xff', 0).fill(0xff, 8), ['byte 8', 'UTF-8']],
  ['a list', file([], 0), ['byte 8', 'object']],
  ['a tensor that is null', file({ a: null }, 0), ['"a"', 'object']],
  ['a dtype that is no text', file({ a: { ...F32, dtype: 3 } }, 8), ['"a"', 'a dtype', 'found 3']],
  ['offsets that descend', file({ a: { ...F32, dtype: 'NEW', data_offsets: [8, 0] } }, 8), ['"a"', 'ascend', '[8,0]']],
  [
    'offsets beyond the file',
    file({ a: F32, b: { ...F32, data_offsets: [8, 16] } }, 12),
    ['tensor "b" to end in the file', 'may be cut short'],
  ],
  ['a negative size', file({ a: { ...F32, shape: [-2] } }, 8), ['"a"', 'shape', '-2']],
  ['a size that is no number', file({ a: { ...F32, shape: ['2'] } }, 8), ['"a"', 'shape']],
  ['one offset', file({ a: { ...F32, data_offsets: [0] } }, 8), ['"a"', 'data_offsets']],
  ['sizes that disagree', file({ a: { ...F32, shape: [3] } }, 8), ['"a"', '12 bytes', 'give 8']],
  ['sizes that overflow', file({ a: { ...F32, shape: [2 ** 40, 2 ** 40] } }, 8), ['"a"', 'give 8']],
  ['a gap', file({ a: F32, b: { ...F32, data_offsets: [9, 17] } }, 17), ['"b"', 'begin', 'where "a" ends', 'mistake']],
  ['an overlap', file({ a: F32, b: { ...F32, data_offsets: [4, 12] } }, 12), ['"b"', 'begin']],
  [
    'a name that occurs twice',
    file(
      '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
      2,
    ),
    ['each name once', '"a" twice'],
  ],
  [
    'two tensors at the same offsets',
    file(
      '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\\u0061":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
      1,
    ),
    ['each name once', '"\\u0061" twice'],
  ],
  [
    'a field that occurs twice',
    file('{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', 1),
    ['each name once', '"dtype" twice'],
  ],
];

test('a damaged file is refused; the error names the file and the place', async (t) => {
  const folder = await temporaryFolder(t);
  for (const [name, bytes, words] of CASES) {
    const path = join(folder, 'bad.safetensors');
    await writeFile(path, bytes);
    await t.test(name, async () => {
      await assert.rejects(openSafetensors(path), says('bad.safetensors is not a valid', ...words));
    });
  }
  await assert.rejects(openSafetensors(join(folder, 'none')), says('cannot read', 'none', 'no such file'));
  await assert.rejects(openSafetensors(folder), says('cannot read', folder, 'it is a folder'));
});

test('a file that is cut is refused; one with a changed byte in its header is refused or still valid', async (t) => {
  const path = join(await temporaryFolder(t), 'cut.safetensors');
  const whole = file({ a: F32, b: { ...F32, data_offsets: [8, 16] } }, 16);
  await fc.assert(
    fc.asyncProperty(fc.nat(whole.length - 1), async (n) => {
      await writeFile(path, whole.subarray(0, n));
      await assert.rejects(openSafetensors(path), says('not a valid'));
    }),
    { numRuns: 30 },
  );
  await fc.assert(
    fc.asyncProperty(fc.nat(whole.length - 17), fc.integer({ min: 1, max: 255 }), async (at, flip) => {
      const bytes = Buffer.from(whole);
      bytes[at] ^= flip;
      await writeFile(path, bytes);
      const opened = await openSafetensors(path).catch((error: unknown) => {
        says()(error);
      });
      await opened?.close(); // a file with a changed name is still valid
    }),
    { numRuns: 60 },
  );
});

/**
 * One tensor of every type that another program may write, with the result of reading it: values, or words of the
 * error.
 */
const TYPES: readonly (readonly [
  dtype: string,
  bytes: readonly number[],
  shape: readonly number[],
  result: HostTensor['data'] | string,
])[] = [
  ['F64', [0, 0, 0, 0, 0, 0, 0xf8, 0x3f], [1], Float64Array.of(1.5)],
  ['F32', [0, 0, 0xc0, 0x3f], [1], Float32Array.of(1.5)],
  ['BF16', [0xc0, 0x3f], [1], Uint16Array.of(0x3fc0)],
  ['F16', [0, 0x3e], [1], Uint16Array.of(0x3e00)],
  ['I64', [0xfb, 255, 255, 255, 255, 255, 255, 255], [1], Int32Array.of(-5)],
  ['I64', [0, 0, 0, 0, 0, 1, 0, 0], [], 'element 0 is 1099511627776'],
  ['U64', [255, 255, 255, 255, 0, 0, 0, 0], [1], Uint32Array.of(4294967295)],
  ['U64', [0, 0, 0, 0, 1, 0, 0, 0], [1], 'element 0 is 4294967296'],
  ['I32', [255, 255, 255, 255], [1], Int32Array.of(-1)],
  ['U32', [255, 255, 255, 255], [1], Uint32Array.of(4294967295)],
  ['I16', [253, 255], [1], Int32Array.of(-3)],
  ['U16', [255, 255], [1], Int32Array.of(65535)],
  ['I8', [255], [1], Int32Array.of(-1)],
  ['U8', [255], [1], Int32Array.of(255)],
  ['BOOL', [1, 0], [2], Uint8Array.of(1, 0)],
  ['BOOL', [1, 2], [2], 'element 1 is 2'],
  ...['F8_E4M3', 'F8_E5M2', 'F8_E8M0', 'F8_E4M3FNUZ', 'F8_E5M2FNUZ'].map(
    (dtype) => [dtype, [1, 2], [2], `is ${dtype}, which cannot be read`] as const,
  ),
  ['F4', [0x12, 0x34], [4], 'is F4, which cannot be read'],
  ['F4', [0x12, 0x03], [3], 'is F4, which cannot be read'],
  ['F6_E2M3', [1], [], 'is F6_E2M3'],
  ['F6_E2M3', [1, 2, 3], [4], 'is F6_E2M3'],
  ['F6_E3M2', [1, 2, 3], [4], 'is F6_E3M2'],
  ['C64', [0, 0, 0, 0, 0, 0, 0, 0], [1], 'is C64'],
  ['F128', [1, 2, 3], [7], 'is F128'],
  ['__proto__', [1], [1], 'is __proto__'],
  ['', [], [0], 'which cannot be read'],
];

test('a tensor that cannot be read does not affect others; the error names it when it is requested', async (t) => {
  const path = join(await temporaryFolder(t), 'all.safetensors');
  await fc.assert(
    fc.asyncProperty(
      fc.uniqueArray(fc.nat(TYPES.length - 1), { maxLength: TYPES.length }),
      fc.constantFrom(
        undefined,
        null,
        {},
        { format: 'pt' },
        { n: 1, list: [1, 'a'], none: null, text: '1' },
        ['a'],
        'pt',
        3,
      ),
      async (picked, metadata) => {
        let at = 0;
        const header = Object.fromEntries(
          picked.map((i) => [
            `t${i}`,
            { dtype: TYPES[i][0], shape: TYPES[i][2], data_offsets: [at, (at += TYPES[i][1].length)] },
          ]),
        );
        const bytes = file(
          metadata === undefined ? header : { ...header, __metadata__: metadata },
          Buffer.from(picked.flatMap((i) => [...TYPES[i][1]])),
        );
        await writeFile(path, bytes);
        const opened = await openSafetensors(path),
          said: string[] = [],
          all = await readSafetensors(bytes, {
            say: (line) => {
              said.push(line);
            },
          });
        try {
          assert.deepEqual([...opened.tensors.keys()].sort(), picked.map((i) => `t${i}`).sort());
          const kept =
            typeof metadata === 'object' && metadata !== null && !Array.isArray(metadata)
              ? Object.entries<unknown>(metadata as Record<string, unknown>)
              : [];
          assert.deepEqual(
            [...opened.metadata],
            kept.map(([key, value]) => [key, typeof value === 'string' ? value : JSON.stringify(value)]),
          );
          for (const i of picked) {
            const [dtype, raw, shape, result] = TYPES[i],
              name = `t${i}`,
              into = new Uint8Array(raw.length);
            await opened.readInto(name, into);
            assert.deepEqual([...into], raw);
            assert.deepEqual([opened.tensors.get(name)?.dtype, opened.tensors.get(name)?.shape], [dtype, shape]);
            if (typeof result === 'string') {
              await assert.rejects(opened.read(name), says(path, `tensor "${name}"`, result));
              assert.throws(() => all.get(name), says('the file', `tensor "${name}"`, result));
              assert.equal(all.has(name), false);
            } else {
              assert.deepEqual((await opened.read(name)).data, result);
              assert.deepEqual(all.get(name), { dtype: (await opened.read(name)).dtype, shape, data: result });
            }
          }
          const not = picked.filter((i) => typeof TYPES[i][3] === 'string');
          assert.deepEqual([...all.keys()].length, picked.length - not.length);
          assert.deepEqual([...all.unreadable.keys()].sort(), not.map((i) => `t${i}`).sort());
          if (not.length === 0) assert.deepEqual(said, []);
          else assert.match(said.join(), new RegExp(`^${not.length} of ${picked.length} tensors cannot be read: "t`));
        } finally {
          await opened.close();
        }
      },
    ),
    { numRuns: 60 },
  );
});

test('16-bit floats of a file convert to float32 and back', async () => {
  const bytes = file(
    { b: { dtype: 'BF16', shape: [3], data_offsets: [0, 6] }, h: { dtype: 'F16', shape: [2], data_offsets: [6, 10] } },
    Buffer.from(Uint16Array.of(0x3f80, 0xc000, 0x7f80, 0x3e00, 0xfbff).buffer),
  );
  const all = await readSafetensors(bytes),
    b = all.get('b')!,
    h = all.get('h')!;
  assert.deepEqual([...convert(b, 'float32').data], [1, -2, Infinity]);
  assert.deepEqual([...convert(h, 'float32').data], [1.5, -65504]);
  for (const tensor of [b, h]) assert.deepEqual(convert(convert(tensor, 'float32'), tensor.dtype), tensor);
});

/** Generates headers as a careless or hostile program may write them: valid headers with errors in random places. */
const value = fc.oneof(
  { weight: 8, arbitrary: fc.nat(40) },
  fc.constantFrom(-1, 0.5, 1e300, 2 ** 53, '2', null, [], {}, true),
);
const entry = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record(
      {
        dtype: fc.oneof(
          { weight: 8, arbitrary: fc.constantFrom('F32', 'U8', 'BF16', 'I64', 'BOOL', 'F4', 'NEW') },
          value,
        ),
        shape: fc.oneof({ weight: 8, arbitrary: fc.array(value, { maxLength: 3 }) }, value),
        data_offsets: fc.oneof(
          { weight: 8, arbitrary: fc.tuple(fc.nat(40), fc.nat(40)) },
          fc.array(value, { maxLength: 3 }),
        ),
      },
      { requiredKeys: [] },
    ),
  },
  value,
);
const headers = fc.oneof(
  fc.dictionary(
    fc.oneof(
      fc.string({ unit: 'binary', maxLength: 6 }),
      fc.constantFrom('__metadata__', '__proto__', 'constructor', ''),
    ),
    entry,
    { maxKeys: 4 },
  ),
  fc.json(),
  fc.string({ unit: 'binary' }),
);

test('any header is refused with the reason, or describes tensors that lie one after the other', async () => {
  await fc.assert(
    fc.asyncProperty(
      headers,
      fc.nat(60),
      fc.option(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })),
      async (header, data, length) => {
        const bytes = file(header, data);
        if (length !== null) bytes.writeBigUInt64LE(length, 0);
        const opened = await openSource(bytesSource(bytes, 'the file')).catch((error: unknown) => {
          says('the file is not a valid safetensors file', 'at byte', 'expected')(error);
        });
        if (!opened) return;
        let at = 8 + Number(bytes.readBigUInt64LE(0));
        for (const [name, { begin, end }] of opened.tensors) {
          assert.equal(begin, at);
          at = end;
          await opened.read(name).then(
            ({ shape, data: values }) => {
              assert.equal(
                values.length,
                shape.reduce((n, d) => n * d, 1),
              );
            },
            (error: unknown) => {
              says(JSON.stringify(name))(error);
            },
          );
        }
        assert.equal(at, bytes.length);
      },
    ),
    { numRuns: 500 },
  );
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

test('a wrong array and a repeated name cause an error, and no file is left', async (t) => {
  const path = join(await temporaryFolder(t), 'w.safetensors');
  const one = (data: () => Float32Array | Uint8Array): TensorSource => ({
    name: 'a',
    dtype: 'float32',
    shape: [2],
    data,
  });
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
