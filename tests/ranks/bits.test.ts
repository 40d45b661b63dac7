// Training over ranks has the bits of one process: losses, norms, evaluations, all states, and what rules decide.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';
import { missing, mpich, openMpi, runRanks, type Mpi } from '../support/mpi.ts';
import { WORKS } from './train.ts';

const script = join(import.meta.dirname, 'train.ts'),
  all = Object.keys(WORKS),
  some = ['dropless', 'spill', 'undivided', 'replicated'];

function alone(): string {
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--conditions=dynamoe-source', script, ...all], {
    encoding: 'utf8',
    env: { ...process.env, NO_COLOR: '1', DYNAMOE_RANKS: 'off' },
  });
  assert.equal(status, 0, stderr);
  return stdout;
}

let one: string | undefined;
const jobs: readonly (readonly [Mpi, number, readonly string[]])[] = [
  [openMpi, 2, all],
  [openMpi, 4, ['capacity', 'padded', 'chunks', 'rules', 'grown']],
  [openMpi, 8, [...some, 'grown']],
  [mpich, 2, some],
];
for (const [mpi, n, names] of jobs)
  test(`${n} ranks of ${mpi.name} train with the bits of one process`, { skip: missing(mpi) }, async () => {
    const { status, stdout, stderr } = await runRanks(mpi, n, script, names);
    assert.equal(status, 0, stderr);
    one ??= alone();
    const expected = one.split('\n').filter((line) => names.some((name) => line.startsWith(`${name} `)));
    assert.deepEqual(stdout.trim().split('\n'), expected);
    assert.match(one, /^rules .* adaptCapacity \d+ \d+ true/m);
  });
