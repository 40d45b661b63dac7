// The cache of compiled kernels: processes share it, damaged files are replaced, and errors name the file.
import assert from 'node:assert/strict';
import { execFile, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import {
  chmod,
  chown,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { refusal } from '../../../bin/cache-folder.mjs';
import { KernelCache } from '../../../src/device/cache.ts';
import { cpuFeatures, findToolchain, splitCommand, toolId } from '../../../src/device/native/toolchain.ts';
import { noCompiler } from '../../support/toy.ts';

const PROGRAM = join(import.meta.dirname, 'three-steps.ts');

async function folder(t: TestContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'dynamoe-cache-'));
  t.after(() => rm(path, { recursive: true, force: true }));
  return path;
}

/** Runs three training steps of a small model in another process. `out` has the losses, `err` the messages. */
function threeSteps(env: Record<string, string>): Promise<{ code: number; out: string; err: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [PROGRAM], { env: { ...process.env, ...env } }, (error, out, err) => {
      resolve({ code: error ? 1 : 0, out, err });
    });
  });
}

test('two processes compile the same kernels at the same time, and both get them', { skip: noCompiler }, async (t) => {
  const cache = await folder(t);
  const [a, b] = await Promise.all([threeSteps({ DYNAMOE_CACHE: cache }), threeSteps({ DYNAMOE_CACHE: cache })]);
  assert.equal(a.err, '');
  assert.equal(b.err, '');
  assert.equal(a.out, b.out);
  assert.deepEqual(
    (await readdir(cache)).filter((f) => f.endsWith('.tmp')),
    [],
  );
});

test('damaged files of the cache are compiled again', { skip: noCompiler }, async (t) => {
  const cache = await folder(t),
    whole = await threeSteps({ DYNAMOE_CACHE: cache });
  assert.equal(whole.err, '');
  const files = await readdir(cache);
  const objects = files.filter((name) => name.endsWith('.so'));
  for (const f of objects) await truncate(join(cache, f), 100);
  assert.deepEqual(await threeSteps({ DYNAMOE_CACHE: cache }), whole, 'objects cut short');
  // The loader maps the file into memory. In a file that is cut in half it would read beyond the end.
  for (const f of objects) await truncate(join(cache, f), (await stat(join(cache, f))).size / 2);
  assert.deepEqual(await threeSteps({ DYNAMOE_CACHE: cache }), whole, 'objects cut in half');
  for (const f of objects) await writeFile(join(cache, f), Buffer.alloc((await stat(join(cache, f))).size));
  assert.deepEqual(await threeSteps({ DYNAMOE_CACHE: cache }), whole, 'objects full of zeros');
  for (const f of files.filter((name) => name.endsWith('.ref'))) await writeFile(join(cache, f), 'nothing.so');
  assert.deepEqual(await threeSteps({ DYNAMOE_CACHE: cache }), whole, 'references to nothing');
});

test('if the compiler fails, the error names it and the generated file', { skip: noCompiler }, async (t) => {
  const cache = await folder(t),
    script = join(await folder(t), 'cc');
  // A compiler that compiles the driver and fails on kernels.
  await writeFile(
    script,
    '#!/bin/sh\ncase "$*" in *kernels_*) echo "kernel.c:7:1: error: made to fail" >&2; exit 1;; esac\nexec cc "$@"\n',
  );
  await chmod(script, 0o755);
  const { code, err } = await threeSteps({ DYNAMOE_CACHE: cache, CC: script });
  assert.equal(code, 1);
  assert.match(err, /failed on \S*kernels_[0-9a-f]+\.c/);
  assert.match(err, /kernel\.c:7:1: error: made to fail/);
  assert.ok(err.length < 3000, "the whole of the compiler's output is not shown");
});

test('if CC is not a working compiler, the error says what is wrong with it', async (t) => {
  const cache = await folder(t),
    script = join(await folder(t), 'not run');
  await writeFile(script, '');
  const cases: [string, RegExp][] = [
    ['/nonexistent/cc', /CC is "\/nonexistent\/cc": there is no program \/nonexistent\/cc/],
    ['nonexistent-cc -m64', /CC is "nonexistent-cc -m64": there is no program nonexistent-cc/],
    [script, /CC is ".*not run": .*not run may not be run/],
    ['/bin/false', /CC is "\/bin\/false": \/bin\/false --version failed \(exit code 1\)/],
  ];
  if (!noCompiler)
    cases.push(
      ['/bin/true', /\/bin\/true made no file from/],
      ['cc --bogus-flag', /cc --bogus-flag failed on .*[^]*bogus-flag/],
    );
  for (const [CC, message] of cases) {
    const { code, err } = await threeSteps({ DYNAMOE_CACHE: cache, CC });
    assert.equal(code, 1, CC);
    assert.match(err, message);
    assert.match(err, /hint: .*CC names/);
  }
});

test('CC may have arguments, and spaces in its path', { skip: noCompiler }, async (t) => {
  const cache = await folder(t),
    place = join(await folder(t), 'my compilers');
  await mkdir(place);
  for (const name of ['cc', 'wrap'])
    await writeFile(join(place, name), '#!/bin/sh\n[ "$1" = through ] && shift\nexec cc "$@"\n', { mode: 0o755 });
  const expected = await threeSteps({ DYNAMOE_CACHE: cache });
  assert.equal(expected.err, '');
  for (const CC of [join(place, 'cc'), `'${join(place, 'wrap')}' through -DMINE="a b"`, 'env cc']) {
    assert.deepEqual(await threeSteps({ DYNAMOE_CACHE: cache, CC }), expected, CC);
  }
});

test('a command is split into words as a shell does it', () => {
  const cases: [string, string[]][] = [
    ['gcc', ['gcc']],
    ['ccache  gcc -m64', ['ccache', 'gcc', '-m64']],
    ['"/a b/cc" -x', ['/a b/cc', '-x']],
    ["'/a b'/cc", ['/a b/cc']],
    ['/a\\ b/cc', ['/a b/cc']],
    ['cc -D"x=\\"y z\\""', ['cc', '-Dx="y z"']],
    [import.meta.filename, [import.meta.filename]],
  ];
  for (const [text, words] of cases) assert.deepEqual(splitCommand(text), words);
  const quoted = (word: string): string => `'${word.replaceAll("'", `'\\''`)}'`;
  fc.assert(
    fc.property(fc.array(fc.string({ minLength: 1 }), { minLength: 1 }), (words) => {
      assert.deepEqual(splitCommand(words.map(quoted).join(' ')), words);
    }),
  );
});

test('four threads with an empty cache all get their kernels', { skip: noCompiler }, async (t) => {
  const cache = await folder(t),
    env = { ...process.env, DYNAMOE_CACHE: cache };
  const ends = await Promise.all(
    Array.from(
      { length: 4 },
      () =>
        new Promise((resolve) => {
          const worker = new Worker(PROGRAM, { env, stdout: true });
          worker.on('error', resolve).on('exit', resolve);
        }),
    ),
  );
  assert.deepEqual(ends, [0, 0, 0, 0]);
  assert.deepEqual(
    (await readdir(cache)).filter((f) => f.startsWith('work-')),
    [],
  );
});

/** A cache in the folder `path` whose objects are plain text. `made`: keys that were made; `said`: messages. */
function textCache(
  t: TestContext,
  path: string,
): { cache: KernelCache; get: (key: string, text: string) => Promise<string>; made: string[]; said: string[] } {
  const before = process.env['DYNAMOE_CACHE'],
    said: string[] = [],
    made: string[] = [];
  process.env['DYNAMOE_CACHE'] = path;
  t.after(() => {
    if (before === undefined) delete process.env['DYNAMOE_CACHE'];
    else process.env['DYNAMOE_CACHE'] = before;
  });
  const cache = new KernelCache((line) => {
    said.push(line);
  });
  const get = (key: string, text: string): Promise<string> =>
    cache.load(
      key,
      async (target) => {
        made.push(key);
        await writeFile(target, text);
      },
      (file) => readFileSync(file, 'utf8'),
    );
  return { cache, get, made, said };
}

test('random damage to a file of the cache: a damaged object is never used', async (t) => {
  const path = await folder(t),
    keys = ['a', 'b', 'c'],
    text = (key: string): string => `the object of ${key} `.repeat(20);
  await fc.assert(
    fc.asyncProperty(
      fc.nat(),
      fc.constantFrom('cut', 'zero', 'flip', 'empty', 'gone', 'swap'),
      fc.nat(),
      async (which, damage, at) => {
        const one = textCache(t, path);
        for (const key of keys) assert.equal(await one.get(key, text(key)), text(key));
        const files = (await readdir(path)).sort(),
          name = files[which % files.length],
          file = join(path, name),
          bytes = await readFile(file);
        switch (damage) {
          case 'cut':
            await truncate(file, at % bytes.length);
            break;
          case 'zero':
            await writeFile(file, bytes.fill(0, at % bytes.length));
            break;
          case 'flip':
            bytes[at % bytes.length] ^= 1 + (at % 255);
            await writeFile(file, bytes);
            break;
          case 'empty':
            await writeFile(file, '');
            break;
          case 'gone':
            await rm(file);
            break;
          case 'swap':
            await rename(file, join(path, files[at % files.length]));
            break;
        }
        const two = textCache(t, path);
        for (const key of keys) {
          const right = text(key),
            found = two.cache.find(key);
          // `swap` replaces a reference by another valid one, which names an undamaged object. No check can notice
          // this.
          if (damage !== 'swap')
            assert.ok(found === null || readFileSync(found, 'utf8') === right, `${damage} ${name}`);
          await rm(join(path, `${key}.ref`), { force: true });
          assert.equal(await two.get(key, right), right);
        }
      },
    ),
    { numRuns: 60 },
  );
});

const root = process.platform === 'linux' && process.getuid?.() === 0;

test(
  'a folder that other users own or can write to is not used, and a message says so',
  { skip: process.platform === 'win32' && 'needs users' },
  async (t) => {
    const open = await folder(t),
      said = /^compiled kernels are kept in \S+: (\S+): (.*)$/;
    await chmod(open, 0o777);
    const one = textCache(t, open);
    assert.notEqual(one.cache.folder, open);
    assert.deepEqual(said.exec(one.said[0])?.slice(1), [
      open,
      'other users can write to it (chmod 700 makes it private)',
    ]);
    assert.equal(await one.get(`cache-test-${process.pid}`, 'x'), 'x');
    await rm(join(one.cache.folder, `cache-test-${process.pid}.ref`), { force: true });
    assert.deepEqual(await readdir(open), []);
    if (!root) return;
    const theirs = await folder(t);
    await chown(theirs, 12345, 12345);
    assert.match(textCache(t, theirs).said[0], /it belongs to another user \(uid 12345\)/);
  },
);

test(
  'the folder is private to the user; an older folder in the home directory is made private',
  { skip: process.platform === 'win32' && 'needs modes' },
  async (t) => {
    const home = await folder(t),
      mode = async (path: string): Promise<number> => (await stat(path)).mode & 0o777;
    assert.equal(refusal({ path: join(home, 'a', 'dynamoe'), named: false, shared: false }), null);
    assert.equal(await mode(join(home, 'a', 'dynamoe')), 0o700);
    await chmod(join(home, 'a', 'dynamoe'), 0o775);
    assert.equal(refusal({ path: join(home, 'a', 'dynamoe'), named: false, shared: false }), null);
    assert.equal(await mode(join(home, 'a', 'dynamoe')), 0o700);
    // In /tmp, any user may have made a link with this name.
    await symlink(join(home, 'a', 'dynamoe'), join(home, 'link'));
    assert.equal(refusal({ path: join(home, 'link'), named: false, shared: true }), 'it is not a folder');
    assert.equal(refusal({ path: join(home, 'link'), named: true, shared: false }), null);
    await symlink(join(home, 'nowhere'), join(home, 'broken'));
    assert.match(refusal({ path: join(home, 'broken'), named: true, shared: false }) ?? '', /no such file/);
    assert.match(
      refusal({ path: '/proc/dynamoe/cache', named: true, shared: false }) ?? '',
      /no such file|not permitted|denied/,
    );
  },
);

test(
  "two users without a home directory get separate folders, and neither uses the other's",
  { skip: !root && 'needs root, to be two users' },
  async (t) => {
    const temporary = await folder(t);
    await chmod(temporary, 0o1777);
    const source = JSON.stringify(join(import.meta.dirname, '../../../src/device/cache.ts')),
      code = `import { KernelCache } from ${source}; console.log(new KernelCache(console.log).folder)`;
    const folderOf = (uid: number): string => {
      const env = { PATH: process.env['PATH'], HOME: '/nonexistent', TMPDIR: temporary };
      const { stdout, stderr, status } = spawnSync(process.execPath, ['--input-type=module', '-e', code], {
        uid,
        gid: uid,
        env,
        encoding: 'utf8',
      });
      assert.equal(status, 0, stderr);
      return stdout.trim();
    };
    assert.equal(folderOf(3001), join(temporary, 'dynamoe-cache-3001'));
    assert.equal(folderOf(3002), join(temporary, 'dynamoe-cache-3002'));
    await chown(join(temporary, 'dynamoe-cache-3001'), 3002, 3002); // as if 3002 had been there first
    assert.equal(
      refusal({ path: join(temporary, 'none', 'dynamoe-cache-1'), named: false, shared: true })?.includes(
        'no such file',
      ),
      true,
      'a missing folder for temporary files is not created',
    );
    const said = folderOf(3001);
    assert.match(said, /^compiled kernels are not kept for the next time: .*dynamoe-cache-3001: it belongs to another/);
    assert.match(said, /another user \(uid 3002\)\n.*dynamoe-cache-\w{6}$/);
    assert.deepEqual(
      (await readdir(temporary)).sort(),
      ['dynamoe-cache-3001', 'dynamoe-cache-3002'],
      'the folder of one process is removed when the process ends',
    );
  },
);

test('if no folder can be written to, the error lists every folder that was tried', { skip: noCompiler }, async () => {
  const { code, err } = await threeSteps({
    DYNAMOE_CACHE: '',
    XDG_CACHE_HOME: '/proc/dynamoe',
    TMPDIR: '/proc/dynamoe/tmp',
  });
  assert.equal(code, 1);
  assert.match(
    err,
    /kept nowhere: (\/proc\/dynamoe)\/dynamoe: .*; \1\/tmp\/dynamoe-cache-\w+: .*; \1\/tmp: no such file or folder/,
  );
  assert.match(err, /hint: set DYNAMOE_CACHE/);
});

/** Mounts a small file system and returns its path; null if this user may not mount one. */
async function mounted(t: TestContext, options: string): Promise<string | null> {
  const path = await mkdtemp(join(tmpdir(), 'dynamoe-mount-'));
  const works = spawnSync('mount', ['-t', 'tmpfs', '-o', `mode=755,${options}`, 'tmpfs', path]).status === 0;
  t.after(async () => {
    if (works) spawnSync('umount', [path]);
    await rm(path, { recursive: true, force: true });
  });
  return works ? path : null;
}

for (const [what, options, why] of [
  ['is full', 'size=40k', 'no space left on the device'],
  ['cannot be written to', 'ro', 'the file system is read-only'],
  ['forbids to run files', 'noexec', 'its files may not be run'],
] as const) {
  test(
    `a cache that ${what} is replaced by the next folder, and a message says so`,
    { skip: noCompiler || (!root && 'needs root, to mount') },
    async (t) => {
      const path = await mounted(t, options),
        temporary = await folder(t);
      if (path === null) {
        t.skip('mount does not work here');
        return;
      }
      const { code, out, err } = await threeSteps({ DYNAMOE_CACHE: path, TMPDIR: temporary });
      assert.equal(code, 0, err);
      assert.equal(out.split('\n').length, 4);
      const kept = join(temporary, `dynamoe-cache-${process.getuid?.()}`);
      assert.equal(err, `compiled kernels are kept in ${kept}: ${path}: ${why}\n`);
      assert.ok((await readdir(kept)).some((name) => name.endsWith('.so')));
    },
  );
}

test(
  'the key of an object depends on the compiler command, the compiler version and the CPU features',
  { skip: noCompiler },
  async () => {
    const ids = [
      [['gcc'], 'gcc 12.2.0', 'flags: avx2'],
      [['gcc', '-m64'], 'gcc 12.2.0', 'flags: avx2'],
      [['gcc'], 'gcc 13.1.0', 'flags: avx2'],
      [['gcc'], 'gcc 12.2.0', 'flags: avx2 avx512f'],
    ] as const;
    assert.equal(new Set(ids.map(([words, version, cpu]) => toolId(words, version, cpu))).size, ids.length);
    const tool = await findToolchain();
    assert.ok(tool);
    assert.equal(tool.id, toolId([tool.command, ...tool.args], tool.version, cpuFeatures()));
    if (process.platform === 'linux') assert.match(cpuFeatures(), /^(?:flags|Features)\s*: \S/m);
  },
);
