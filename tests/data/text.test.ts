// Text: the bytes of the windows of each split, stable ids, order by seed and step, validation windows, files that are
// left out.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmod, mkdir, open, symlink, writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { test, type TestContext } from 'node:test';
import fc from 'fast-check';
import type { Batch, HostTensor } from '../../src/base/tensor.ts';
import { text, textFrom } from '../../src/data/index.ts';
import { says, temporaryFolder } from '../io/folder.ts';

/** A folder with these files. A number n stands for n bytes that count up (mod 251). */
async function files(t: TestContext, contents: Record<string, string | number | Uint8Array>): Promise<string> {
  const folder = await temporaryFolder(t);
  for (const [name, content] of Object.entries(contents)) {
    await mkdir(join(folder, name, '..'), { recursive: true });
    const counting = (length: number): Uint8Array => Uint8Array.from({ length }, (_, i) => 1 + (i % 251));
    await writeFile(join(folder, name), typeof content === 'number' ? counting(content) : content);
  }
  return folder;
}

async function all(batches: AsyncIterable<Batch>): Promise<Batch[]> {
  const list: Batch[] = [];
  for await (const batch of batches) list.push(batch);
  return list;
}

/** Rows of a batch as [id, x, y]. */
const rows = ({ x, y, ids }: Batch): [number, number[], number[]][] => {
  const row = ({ data, shape: [, width] }: HostTensor, r: number): number[] => [
    ...data.slice(r * width, (r + 1) * width),
  ];
  return Array.from(ids ?? [], (id, r) => [id, row(x, r), row(y, r)]);
};

test('windows contain the bytes of the definition, for any file sizes and context', async (t) => {
  const folder = await temporaryFolder(t);
  const path = (i: number): string => join(folder, `${i}.txt`);
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.integer({ min: 1, max: 120 }), { minLength: 1, maxLength: 4 }),
      fc.integer({ min: 1, max: 9 }),
      fc.integer({ min: 1, max: 5 }),
      async (sizes, context, size) => {
        const contents = sizes.map((n, f) => Uint8Array.from({ length: n }, (_, i) => 1 + ((f * 37 + i * 11) % 255)));
        for (const [i, bytes] of contents.entries()) await writeFile(path(i), bytes);
        const data = text(
          sizes.map((_, i) => path(i)),
          { say: () => undefined },
        );
        for (const split of ['train', 'validation'] as const) {
          const expected: [number, number[], number[]][] = [];
          for (const bytes of contents) {
            const cut = Math.floor((bytes.length * 9) / 10);
            const part = [...(split === 'train' ? bytes.subarray(0, cut) : bytes.subarray(cut))];
            for (let at = 0; at + context + 1 <= part.length; at += context) {
              expected.push([expected.length, part.slice(at, at + context), part.slice(at + 1, at + 1 + context)]);
            }
          }
          assert.equal((await data.counts(context))[split], expected.length);
          if (expected.length === 0) {
            await assert.rejects(
              all(data.windows({ context, size, split })),
              says('too little text', `${context + 1} bytes`),
            );
            continue;
          }
          const pass = await all(data.windows({ context, size, split }));
          assert.deepEqual(pass.flatMap(rows), expected);
          assert.ok(pass.slice(0, -1).every((b) => b.x.shape[0] === size));
          assert.deepEqual(pass.at(-1)?.x.shape, [expected.length - size * (pass.length - 1), context]);
          const epochs = await all(data.batches({ context, size: expected.length, seed: 7, split, limit: 3 }));
          for (const epoch of epochs)
            assert.deepEqual(
              rows(epoch).sort((a, b) => a[0] - b[0]),
              expected,
            );
        }
      },
    ),
    { numRuns: 40 },
  );
});

test('a batch depends only on seed and step', async (t) => {
  const folder = await files(t, { 'a.txt': 400, 'b.txt': 333 });
  const options = { size: 7, context: 5, seed: 3 };
  const data = text(folder);
  const first = await all(data.batches({ ...options, limit: 60 })); // several epochs
  const resumed = await all(text(folder).batches({ ...options, from: 41, limit: 19 }));
  assert.deepEqual(resumed, first.slice(41));
  const random = data.batches(options);
  for (const step of [59, 0, 17, 58, 1]) assert.deepEqual(await random.at(step), first[step]);
  const other = await all(data.batches({ ...options, seed: 4, limit: 60 }));
  assert.notDeepEqual(other, first);
  const count = await random.samples();
  const ids = first.flatMap((b) => [...(b.ids ?? [])]);
  assert.equal(new Set(ids.slice(0, count)).size, count);
  assert.equal(new Set(ids.slice(count, 2 * count)).size, count);
  assert.notDeepEqual(ids.slice(0, count), ids.slice(count, 2 * count));
  assert.deepEqual(await all(data.batches({ ...options, limit: 0 })), []);
  const { x, y } = first[0];
  assert.deepEqual([x.dtype, y.dtype, x.shape, y.shape, data.vocab], ['int32', 'int32', [7, 5], [7, 5], 256]);
});

test('a batch can be larger than an epoch', async (t) => {
  const data = text(await files(t, { a: 40 }));
  const [batch] = await all(data.batches({ size: 50, context: 8, limit: 1 }));
  const counts = [0, 0, 0, 0];
  for (const id of batch.ids ?? []) counts[id]++;
  assert.deepEqual(counts.sort(), [12, 12, 13, 13]);
});

test('files are read in the order of their paths, folders recursively, without hidden names', async (t) => {
  const folder = await files(t, {
    'b/z.txt': 'z',
    'b/a/q.md': 'q',
    'b.txt': 'b',
    'B.txt': 'B',
    'é.txt': 'e',
    '.hidden': 'h',
    '.git/config': 'g',
    'b/.x/y.txt': 'y',
    'c/.keep': 'k',
  });
  const names = async (...paths: string[]): Promise<string[]> =>
    (await text(paths).info()).files.map((f) => relative(folder, f.path).replaceAll('\\', '/'));
  const inOrder = ['B.txt', 'b.txt', 'b/a/q.md', 'b/z.txt', 'é.txt'];
  assert.deepEqual(await names(folder), inOrder);
  assert.deepEqual(await names(join(folder, 'é.txt'), join(folder, 'b'), folder, join(folder, 'b.txt')), inOrder);
  assert.deepEqual(await names(join(folder, '**/*.txt')), ['B.txt', 'b.txt', 'b/z.txt', 'é.txt']);
  assert.deepEqual(await names(join(folder, '*')), inOrder);
  assert.deepEqual(await names(join(folder, '.git'), join(folder, '.hidden')), ['.git/config', '.hidden']);
  await writeFile(join(folder, 'b', '[1].txt'), 'x');
  assert.deepEqual(await names(join(folder, 'b', '[1].txt')), ['b/[1].txt']);
  await assert.rejects(names(join(folder, '*.none')), says('no file matches', '*.none'));
  await assert.rejects(names(join(folder, 'none')), says('none does not exist'));
  await assert.rejects(names(folder, ''), says('empty'));
  await assert.rejects(
    names(join(folder, 'c')),
    says('no text in', 'left out 1 name that begins with a dot', 'c/.keep'),
  );
});

test(
  'links are followed, each file is read once, and loops of links end',
  { skip: process.platform === 'win32' && 'needs symbolic links' },
  async (t) => {
    const folder = await files(t, { 'a/one.txt': '1', 'a/b/two.txt': '2', 'other/three.txt': '3' });
    await symlink('..', join(folder, 'a', 'b', 'loop'));
    await symlink(join(folder, 'a'), join(folder, 'z'));
    await symlink('one.txt', join(folder, 'a', 'again.txt'));
    await symlink('gone.txt', join(folder, 'a', 'broken.txt'));
    await symlink('itself', join(folder, 'a', 'itself'));
    await symlink(join(folder, 'other'), join(folder, 'a', 'linked'));
    const names = async (...paths: string[]): Promise<string[]> =>
      (await text(paths).info()).files.map((f) => relative(folder, f.path));
    assert.deepEqual(await names(join(folder, 'a')), ['a/again.txt', 'a/b/two.txt', 'a/linked/three.txt']);
    assert.deepEqual(
      await names(join(folder, 'z'), join(folder, 'a')),
      await names(join(folder, 'a'), join(folder, 'z')),
    );
  },
);

test('binary and empty files are left out, and one message says so', async (t) => {
  const late = new Uint8Array(200_000).fill(65);
  late[9000] = 0;
  const early = new Uint8Array(200_000).fill(65);
  early[8191] = 0;
  const folder = await files(t, {
    'a.txt': 300,
    'b.png': Uint8Array.of(137, 80, 0, 71),
    'c.txt': '',
    'late.txt': late,
    'early.bin': early,
    latin1: Uint8Array.of(228, 10),
  });
  const said: string[] = [];
  const data = text(folder, {
    say: (line) => {
      said.push(line);
    },
  });
  const info = await data.info();
  await data.counts(4);
  await data.batches({ size: 1, context: 4 }).at(0);
  assert.deepEqual(
    info.files.map((f) => relative(folder, f.path)),
    ['a.txt', 'late.txt', 'latin1'],
  );
  assert.deepEqual(
    info.skipped.map((s) => [relative(folder, s.path), s.reason]),
    [
      ['b.png', 'binary'],
      ['c.txt', 'empty'],
      ['early.bin', 'binary'],
    ],
  );
  assert.equal(said.length, 2);
  assert.match(
    said[1],
    /^training: 5 of 180271 bytes are in no window \(5 bytes, not across files\): 1 of 3 files are too short/,
  );
  assert.match(said[0], /^left out 2 binary files: .*b\.png, .*early\.bin; 1 empty file: .*c\.txt$/);
  assert.deepEqual([info.bytes, info.trainBytes + info.validationBytes], [200_302, 200_302]);
  await assert.rejects(text(join(folder, 'b.png')).info(), says('no text in', 'b.png', 'left out 1 binary file'));
});

test(
  'other things than text in a folder are left out and counted in a message',
  { skip: process.platform === 'win32' && 'needs pipes and names of bytes' },
  async (t) => {
    const folder = await files(t, {
      'a.txt': 300,
      '.hidden': 5,
      'b.txt': 400,
      'wide.txt': Buffer.from('\uFEFFwide text', 'utf16le'),
      'marked.txt': `\uFEFF${'x'.repeat(200)}`,
      mark: '\uFEFF',
    });
    const latin1 = Buffer.concat([Buffer.from(join(folder, 'caf')), Buffer.of(0xe9), Buffer.from('.txt')]),
      said: string[] = [];
    await writeFile(latin1, 'e'.repeat(100));
    await symlink('gone', join(folder, 'broken'));
    await symlink('a.txt', join(folder, 'z-again.txt'));
    await symlink('.', join(folder, 'loop'));
    assert.equal(spawnSync('mkfifo', [join(folder, 'pipe')]).status, 0);
    const data = text(folder, {
        say: (line) => {
          said.push(line);
        },
      }),
      info = await data.info();
    assert.deepEqual(
      info.files.map(({ path, bytes }) => [relative(folder, path), bytes]),
      [
        ['a.txt', 300],
        ['b.txt', 400],
        ['caf\uFFFD.txt', 100],
        ['marked.txt', 200],
      ],
    );
    const names = (reason: string): string[] =>
      info.skipped.filter((s) => s.reason === reason).map((s) => relative(folder, s.path));
    assert.deepEqual(['UTF-16', 'empty', 'broken link', 'no file', 'again', 'hidden'].map(names), [
      ['wide.txt'],
      ['mark'],
      ['broken'],
      ['pipe'],
      ['loop', 'z-again.txt'],
      ['.hidden'],
    ]);
    assert.equal(info.skipped.length, 7);
    assert.equal(
      said.join('\n').replace(/: \S+(, \S+)?(?=;|$)/g, ''),
      'left out 1 file in UTF-16; 1 empty file; 1 broken link; 1 pipe or device; ' +
        '2 paths to files that were read already; 1 name that begins with a dot',
    );
    await assert.rejects(
      text(join(folder, 'wide.txt')).info(),
      says('no text', 'left out 1 file in UTF-16', 'iconv -f UTF-16 -t UTF-8'),
    );
    await assert.rejects(text(join(folder, 'pipe')).info(), says('neither a file nor a folder'));
    await assert.rejects(text(join(folder, 'broken')).info(), says('broken is a link that leads nowhere'));
    await symlink('itself', join(folder, 'itself'));
    await assert.rejects(text(join(folder, 'itself')).info(), says('itself is a link that leads nowhere'));
  },
);

test(
  'an unreadable file is left out if it was found in a folder, and an error if the caller named it',
  { skip: process.getuid?.() !== 0 && 'needs root, to be another user' },
  async (t) => {
    const folder = await files(t, { 'a.txt': 300, 'b.txt': 300, 'c/d.txt': 300 });
    await chmod(folder, 0o755);
    for (const name of ['b.txt', 'c']) await chmod(join(folder, name), 0);
    const code = `import { text } from ${JSON.stringify(join(import.meta.dirname, '../../src/data/index.ts'))};
    const names = process.argv.slice(1); console.log((await text(names, { say: console.log }).info()).files.length);`;
    const as = (...names: string[]): { stdout: string; stderr: string } =>
      spawnSync(process.execPath, ['--input-type=module', '-e', code, ...names], {
        uid: 3001,
        gid: 3001,
        encoding: 'utf8',
      });
    assert.equal(
      as(folder).stdout,
      `left out 2 things that may not be read: ${join(folder, 'c')}, ${join(folder, 'b.txt')}\n1\n`,
    );
    assert.match(as(folder, join(folder, 'b.txt')).stderr, /cannot read \S*b\.txt: permission denied/);
    assert.match(as(join(folder, 'c')).stderr, /cannot read \S*c: permission denied/);
  },
);

test('a message counts the bytes that are in no window, if they are many', async (t) => {
  const said: string[] = [],
    small = Object.fromEntries(Array.from({ length: 30 }, (_, i) => [`${i}.txt`, 15]));
  const of = async (contents: Record<string, number>): Promise<ReturnType<typeof text>> =>
    text(await files(t, contents), {
      say: (line) => {
        said.push(line);
      },
    });
  const many = await of({ ...small, 'large.txt': 400 });
  await many.batches({ size: 1, context: 16 }).at(0);
  await many.batches({ size: 2, context: 16 }).samples();
  await all(many.windows({ size: 1, context: 16 }));
  assert.deepEqual(said.splice(0), [
    'training: 397 of 750 bytes are in no window (17 bytes, not across files): ' +
      '30 of 31 files are too short, the rest are ends of files',
    'validation: 67 of 100 bytes are in no window (17 bytes, not across files): ' +
      '30 of 31 files are too short, the rest are ends of files',
  ]);
  assert.equal((await many.counts(16)).unusedBytes, 464);
  const one = await of({ a: 100_007 });
  await one.batches({ size: 1, context: 16 }).at(0);
  assert.deepEqual(said, []);
});

test('a byte order mark does not count as text, in files and in memory', async (t) => {
  const folder = await files(t, { plain: 'abcdefghij', marked: '\uFEFFabcdefghij' });
  const plain = text(join(folder, 'plain')),
    marked = text(join(folder, 'marked'));
  assert.equal(await marked.fingerprint(), await plain.fingerprint());
  assert.equal(
    await textFrom('\uFEFFabcdefghij').fingerprint(),
    await textFrom(Buffer.from('\uFEFFabcdefghij')).fingerprint(),
  );
  assert.equal((await marked.info()).bytes, 10);
});

test('the error for too little text names the split, the bytes that are needed and a context that fits', async (t) => {
  const folder = await files(t, { a: 60, b: 30, c: 5 });
  const data = text(folder);
  await assert.rejects(
    data.batches({ size: 1, context: 64 }).at(0),
    says('context 64 takes 65 bytes', 'train part', 'a has 54 of its 60', 'at most 53'),
  );
  await assert.rejects(
    all(data.windows({ size: 1, context: 8 })),
    says('validation part', 'a has 6 of its 60', 'at most 5'),
  );
  assert.deepEqual(await data.counts(10), { train: 7, validation: 0, shortFiles: 1, unusedBytes: 23 });
  assert.deepEqual(await data.counts(64), { train: 0, validation: 0, shortFiles: 3, unusedBytes: 95 });
  await assert.rejects(data.batches({ size: 1, context: 5, from: 2, split: 'test' }).at(0.5), says('step', '0.5'));
});

test('the option split: any share of the text, also 0 and 1, can be held out', async (t) => {
  const folder = await files(t, { a: 101 });
  const counts = (validation: number): Promise<unknown> => text(folder, { split: { validation } }).counts(10);
  assert.deepEqual(await counts(0), { train: 10, validation: 0, shortFiles: 0, unusedBytes: 0 });
  assert.deepEqual(await counts(1), { train: 0, validation: 10, shortFiles: 1, unusedBytes: 0 });
  assert.deepEqual(await counts(0.5), { train: 4, validation: 5, shortFiles: 0, unusedBytes: 9 });
  assert.throws(() => text(folder, { split: { validation: 1.5 } }), says('0..1', '1.5'));
  assert.throws(() => text([]), says('no path'));
  assert.throws(() => text(folder).batches({ size: 0, context: 4 }), says('size', 'at least 1', '0'));
  assert.throws(() => text(folder).batches({ size: 2, context: 1.5 }), says('context', '1.5'));
  assert.throws(() => text(folder).batches({ size: 2, context: 4, from: -1 }), says('from', '-1'));
});

test('the fingerprint depends on the contents of files, not on their paths', async (t) => {
  const one = await files(t, { a: 'abc', b: 'def' }),
    same = await files(t, { x: 'abc', y: 'def' });
  const moved = await files(t, { a: 'abcd', b: 'ef' });
  const print = await text(one).fingerprint();
  assert.match(print, /^[0-9a-f]{32}$/);
  assert.equal(await text(same).fingerprint(), print);
  assert.notEqual(await text(moved).fingerprint(), print);
  assert.notEqual(await text(one, { split: { validation: 0.2 } }).fingerprint(), print);
});

test('a file over 2 GiB and a path that is neither file nor folder are refused by name', async (t) => {
  const folder = await files(t, {});
  const path = join(folder, 'large.txt');
  const file = await open(path, 'w');
  await file.truncate(2 ** 31); // a sparse file, which takes no space
  await file.close();
  await assert.rejects(text(path).info(), says('large.txt has 2147483648 bytes', 'split'));
  if (process.platform !== 'win32') await assert.rejects(text('/dev/null').info(), says('/dev/null is neither'));
});

test('a thousand small files are read', async (t) => {
  const folder = await files(
    t,
    Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [`${i % 10}/${i}.txt`, `file ${i}`])),
  );
  assert.equal((await text(folder).info()).files.length, 1000);
});
