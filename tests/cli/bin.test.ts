// Tests the installed command: Node's compile cache is stored for the next start, and the command works without it. It
// can be started as ranks.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { missing, mpich, openMpi } from '../support/mpi.ts';
import { noCompiler } from '../support/toy.ts';

const bin = fileURLToPath(new URL('../../bin/dynamoe.mjs', import.meta.url));

async function version(cache: string): Promise<string> {
  const { NODE_COMPILE_CACHE: _, ...env } = process.env;
  return (await promisify(execFile)(process.execPath, [bin, '--version'], { env: { ...env, DYNAMOE_CACHE: cache } }))
    .stdout;
}

test('compiled sources are cached beside the kernels; the command also works if they cannot be stored', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'dynamoe-bin-'));
  t.after(() => rm(folder, { recursive: true }));
  const first = await version(join(folder, 'cache')),
    kept = await readdir(join(folder, 'cache', 'code'), { recursive: true });
  assert.match(first, /^\d+\.\d+\.\d+\n$/);
  assert.ok(kept.length > 20, `${kept.length} files`);
  assert.equal(await version(join(folder, 'cache')), first, 'a start that uses the cache');
  await writeFile(join(folder, 'file'), '');
  assert.equal(await version(join(folder, 'file')), first, 'a cache folder that is a file');
});

for (const mpi of [openMpi, mpich])
  test(`the command runs as ranks of ${mpi.name}`, { skip: noCompiler || missing(mpi) }, async () => {
    // The command replaces its process by the locked Node, which needs what the launcher has opened for a rank.
    const sizes = ['--tokens', '8', '--width', '16', '--hidden', '8', '--experts', '4', '--rounds', '1', '--json'],
      { stdout } = await promisify(execFile)(
        mpi.mpirun,
        [...mpi.args, '-n', '2', process.execPath, bin, 'bench', 'ranks', ...sizes],
        { env: { ...process.env, OMPI_ALLOW_RUN_AS_ROOT: '1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: '1' } },
      );
    assert.equal((JSON.parse(stdout) as { readonly ranks: number }).ranks, 2);
  });
