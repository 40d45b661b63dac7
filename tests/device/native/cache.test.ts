// The cache of compiled kernels: shared between processes, recovers from damage, and failures that name the file.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { chmod, mkdtemp, readdir, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { noCompiler } from '../../support/toy.ts';

const PROGRAM = join(import.meta.dirname, 'three-steps.ts');

async function folder(t: TestContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'dynamoe-cache-'));
  t.after(() => rm(path, { recursive: true, force: true }));
  return path;
}

/** Runs three steps of a small model in a process of its own; gives its losses, or what it said. */
function threeSteps(env: Record<string, string>): Promise<{ code: number; out: string; err: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [PROGRAM], { env: { ...process.env, ...env } }, (error, out, err) => {
      resolve({ code: error ? 1 : 0, out, err });
    });
  });
}

test('two processes that compile the same kernels at once both get them', { skip: noCompiler }, async (t) => {
  const cache = await folder(t);
  const [a, b] = await Promise.all([threeSteps({ DYNAMOE_CACHE: cache }), threeSteps({ DYNAMOE_CACHE: cache })]);
  assert.equal(a.err, '');
  assert.equal(b.err, '');
  assert.equal(a.out, b.out);
  assert.deepEqual((await readdir(cache)).filter((f) => f.endsWith('.tmp')), []);
});

test('a damaged cache is compiled anew', { skip: noCompiler }, async (t) => {
  const cache = await folder(t), whole = await threeSteps({ DYNAMOE_CACHE: cache });
  assert.equal(whole.err, '');
  const files = await readdir(cache);
  for (const f of files.filter((name) => name.endsWith('.so'))) await truncate(join(cache, f), 100);
  assert.deepEqual(await threeSteps({ DYNAMOE_CACHE: cache }), whole, 'objects cut short');
  for (const f of files.filter((name) => name.endsWith('.ref'))) await writeFile(join(cache, f), 'nothing.so');
  assert.deepEqual(await threeSteps({ DYNAMOE_CACHE: cache }), whole, 'references to nothing');
});

test('a compiler that fails is named with the generated file', { skip: noCompiler }, async (t) => {
  const cache = await folder(t), script = join(await folder(t), 'cc');
  // Compiles the driver, refuses kernels.
  await writeFile(script, '#!/bin/sh\ncase "$*" in *kernels_*) echo "kernel.c:7:1: error: made to fail" >&2; exit 1;; esac\nexec cc "$@"\n');
  await chmod(script, 0o755);
  const { code, err } = await threeSteps({ DYNAMOE_CACHE: cache, CC: script });
  assert.equal(code, 1);
  assert.match(err, /failed on \S*kernels_[0-9a-f]+\.c/);
  assert.match(err, /kernel\.c:7:1: error: made to fail/);
  assert.ok(err.length < 3000, 'the whole of the compiler\'s output is not shown');
});

test('no compiler at all is said with a hint', async (t) => {
  const { code, err } = await threeSteps({ DYNAMOE_CACHE: await folder(t), CC: '/nonexistent/cc' });
  assert.equal(code, 1);
  assert.match(err, /no C compiler found/);
});
