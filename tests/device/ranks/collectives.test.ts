// Collective steps over MPI, through the tables of the native device, against plain TypeScript.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { missing, mpich, openMpi, runRanks, scriptPath } from '../../support/mpi.ts';

for (const { mpi, n, threads, cases } of [
  { mpi: openMpi, n: 2, threads: 1, cases: 150 },
  { mpi: openMpi, n: 2, threads: 2, cases: 50 },
  { mpi: openMpi, n: 4, threads: 1, cases: 50 },
  { mpi: openMpi, n: 8, threads: 1, cases: 10 },
  { mpi: mpich, n: 2, threads: 1, cases: 150 },
])
  test(`collectives of ${n} ranks with ${threads} threads over ${mpi.name}`, { skip: missing(mpi) }, async () => {
    const { status, stdout, stderr } = await runRanks(mpi, n, scriptPath('collectives'), [`${threads}`, `${cases}`]);
    assert.equal(status, 0, stderr + stdout);
    assert.match(stdout, new RegExp(`^${cases} cases on ${mpi.name} .*, ${n} ranks on 1 host$`, 'm'));
  });
