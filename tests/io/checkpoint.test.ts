// Tests checkpoints: tensors and metadata are read exactly as written, other files are refused, and the old file
// survives a failed write.
import assert from 'node:assert/strict';
import { lstat, readdir, readFile, stat, symlink, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { getSystemErrorMap } from 'node:util';
import { UserError } from '../../src/base/errors.ts';
import { writeAtomic } from '../../src/io/atomic.ts';
import { isParameter } from '../../src/graph/state.ts';
import { stateName, type CheckpointMeta } from '../../src/io/checkpoint.ts';
import { loadCheckpoint, saveCheckpoint } from '../../src/io/checkpoint-file.ts';
import { fault } from '../../src/io/fault.ts';
import { jsonText } from '../../src/io/json.ts';
import type { TensorSource } from '../../src/io/safetensors-bytes.ts';
import { writeSafetensors } from '../../src/io/safetensors-file.ts';
import { says, temporaryFolder } from './folder.ts';

const META: CheckpointMeta = {
  step: 12,
  seed: 3,
  config: { layers: 4, name: 'ü \u0000 "', list: [1, null, true] },
  optimizer: { lr: 0.1 + 0.2 },
  data: { fingerprint: 'ab' },
};
const source = (name: string, ...values: number[]): TensorSource => ({
  name,
  dtype: 'float32',
  shape: [values.length],
  data: () => Float32Array.from(values),
});

test('parameters, states and metadata are read as they were written', async (t) => {
  const path = join(await temporaryFolder(t), 'c.safetensors');
  const state = stateName('optim', 'm', 'blocks.0.w');
  await saveCheckpoint(path, { tensors: [source('blocks.0.w', 1, 2), source(state, 3, 4)], meta: META });
  const { meta, file } = await loadCheckpoint(path);
  t.after(() => file.close());
  assert.deepEqual(meta, META);
  assert.equal(state, 'optim/m/blocks.0.w');
  assert.deepEqual(
    [...file.tensors.keys()].filter((name) => isParameter(name)),
    ['blocks.0.w'],
  );
  assert.deepEqual((await file.read(state)).data, Float32Array.of(3, 4));
});

test('other files are refused, and the error says what they are', async (t) => {
  const folder = await temporaryFolder(t);
  const path = join(folder, 'o.safetensors');
  const metadata = async (text: string | undefined, ...words: string[]): Promise<void> => {
    await writeSafetensors(path, [], text === undefined ? {} : { dynamoe: text });
    await assert.rejects(loadCheckpoint(path), says('o.safetensors', ...words));
  };
  await metadata(undefined, 'not a DynaMoE checkpoint');
  await metadata('{', 'not JSON');
  await metadata('null', 'no version');
  await metadata('{"version":99,"step":1,"seed":1}', 'newer DynaMoE', '99');
  await metadata('{"version":1,"step":-1,"seed":1}', 'no step');
  await metadata('{"version":1,"step":1}', 'no seed');
  await assert.rejects(loadCheckpoint(join(folder, 'none')), says('none', 'no such file'));
});

test('metadata that JSON would change causes an error that names the field', () => {
  assert.throws(() => jsonText({ a: [1, { b: NaN }] }), /\$\.a\[1\]\.b is NaN/);
  assert.throws(() => jsonText({ a: -Infinity }), /\$\.a is -Infinity/);
  assert.throws(() => jsonText({ a: new Map() as unknown as null }), /\$\.a is not plain data \(Map\)/);
  assert.throws(() => jsonText({ a: 1n as unknown as null }), /\$\.a is not plain data \(bigint\)/);
  assert.equal(jsonText({ a: undefined, b: null }), '{"b":null}');
});

test('a write that fails leaves the old file, and no temporary file', async (t) => {
  const folder = await temporaryFolder(t);
  const path = join(folder, 'c.safetensors');
  await saveCheckpoint(path, { tensors: [source('a', 1)], meta: META });
  const before = await readFile(path);
  const failing: TensorSource = {
    name: 'b',
    dtype: 'float32',
    shape: [1],
    data: () => Promise.reject(new Error('the device is gone')),
  };
  await assert.rejects(saveCheckpoint(path, { tensors: [source('a', 2), failing], meta: META }), /the device is gone/);
  assert.deepEqual(await readFile(path), before);
  assert.deepEqual(await readdir(folder), ['c.safetensors']);
  await assert.rejects(
    saveCheckpoint(join(folder, 'no', 'c'), { tensors: [], meta: META }),
    says('cannot write', 'no/c', 'no such file'),
  );
  await truncate(path, before.length - 1);
  await assert.rejects(loadCheckpoint(path), says('not a valid safetensors file'));
});

test(
  'the error of a full disk says so in words',
  { skip: process.platform !== 'linux' && 'needs /dev/full' },
  async () => {
    const { open } = await import('node:fs/promises');
    const file = await open('/dev/full', 'w');
    const error: unknown = await file.write(new Uint8Array(10)).catch((e: unknown) => e);
    await file.close();
    assert.match(
      String(fault('write', 'x', error)),
      /cannot write x: no space left on the device\n {2}hint: free some space/,
    );
  },
);

test('old temporary files of killed writers are removed; those of current writers are not', async (t) => {
  const folder = await temporaryFolder(t);
  const old = '.f.0123456789abcdef.tmp',
    fresh = '.f.0123456789abcdee.tmp',
    other = '.g.0123456789abcdef.tmp';
  for (const name of [old, fresh, other]) await writeFile(join(folder, name), '');
  for (const name of [old, other]) await utimes(join(folder, name), 1, 1);
  await writeAtomic(join(folder, 'f'), [Buffer.from('ab'), Buffer.from('c')]);
  assert.deepEqual((await readdir(folder)).sort(), [fresh, other, 'f'].sort());
  assert.equal(await readFile(join(folder, 'f'), 'utf8'), 'abc');
});

test(
  'a file keeps its mode, a link stays, and anything but a file is not replaced',
  { skip: process.platform === 'win32' && 'needs modes' },
  async (t) => {
    const folder = await temporaryFolder(t),
      path = join(folder, 'f'),
      link = join(folder, 'link'),
      text = (words: string): Uint8Array[] => [Buffer.from(words)];
    await writeFile(path, 'old', { mode: 0o640 });
    await symlink('f', link);
    await writeAtomic(link, text('new'));
    assert.equal(await readFile(path, 'utf8'), 'new');
    assert.equal((await lstat(link)).isSymbolicLink(), true);
    assert.equal((await stat(path)).mode & 0o777, 0o640);
    await assert.rejects(writeAtomic('/dev/null', text('x')), says('cannot write /dev/null: it is not a file'));
    await assert.rejects(writeAtomic(folder, text('x')), says(`cannot write ${folder}: it is a folder`));
    await assert.rejects(writeAtomic(join(path, 'x'), text('x')), says('cannot write', 'a part of the path is a file'));
    const long = join(folder, 'n'.repeat(255));
    await writeAtomic(long, text('long'));
    assert.equal(await readFile(long, 'utf8'), 'long');
    await assert.rejects(writeAtomic(`${long}n`, text('x')), says('the name is too long'));
    await assert.rejects(writeAtomic(join(folder, 'a\nb', 'c'), text('x')), (error: Error) =>
      error.message.startsWith(`cannot write ${JSON.stringify(join(folder, 'a\nb', 'c'))}: no such file`),
    );
    assert.deepEqual((await readdir(folder)).sort(), ['f', 'link', 'n'.repeat(255)]);
  },
);

test('every error code of the system is described in words', () => {
  for (const [code, words] of [
    ['ENOTDIR', 'a part of the path is a file'],
    ['EMFILE', 'too many open files'],
    ['EIO', 'the device failed'],
    ['EROFS', 'the file system is read-only'],
  ] as const) {
    assert.match(
      String(fault('read', 'p', Object.assign(new Error('x'), { code }))),
      new RegExp(`cannot read p: ${words}.*\n {2}hint: `),
    );
  }
  for (const [errno, [code]] of getSystemErrorMap()) {
    const error = fault('read', 'p', Object.assign(new Error('x'), { errno, code }));
    assert.ok(
      error instanceof UserError && /^cannot read p: [a-z]/.test(error.message) && !error.message.includes(code),
      `${code}: ${String(error)}`,
    );
  }
});
