// Which launcher has started a process, which mpicc belongs to it, and what is said if none does.
import assert from 'node:assert/strict';
import { spawnSync, type SpawnSyncReturns } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { findLauncher } from '../../../src/device/native/mpi/launcher.ts';
import { versionOf } from '../../../src/device/native/mpi/library.ts';
import { mpiOf } from '../../../src/device/native/mpi.ts';
import { missing, mpich, openMpi, runRanks, scriptPath } from '../../support/mpi.ts';

const script = scriptPath('join');

test('launchers are known by their environment variables', () => {
  const found = (env: Record<string, string>): string | null => {
    const l = findLauncher(env);
    return l && `${l.by} (${l.family}): rank ${l.rank} of ${l.size}, ${l.onHost} of its host`;
  };
  const open = { OMPI_COMM_WORLD_SIZE: '4', OMPI_COMM_WORLD_RANK: '3', OMPI_COMM_WORLD_LOCAL_RANK: '1' },
    hydra = { PMI_SIZE: '2', PMI_RANK: '1', MPI_LOCALRANKID: '0' },
    slurm = { SLURM_STEP_NUM_TASKS: '8', SLURM_PROCID: '5', SLURM_LOCALID: '1', SLURM_STEP_ID: '0' };
  assert.equal(found(open), "Open MPI's mpirun (Open MPI): rank 3 of 4, 1 of its host");
  assert.equal(found(hydra), "MPICH's mpirun (MPICH): rank 1 of 2, 0 of its host");
  assert.equal(found(slurm), 'srun (null): rank 5 of 8, 1 of its host');
  assert.equal(
    found({ ...slurm, PMI_SIZE: '8', PMI_RANK: '5' }),
    'srun --mpi=pmi2 (MPICH): rank 5 of 8, 1 of its host',
  );
  assert.equal(found({ ...slurm, PMIX_RANK: '5' }), 'srun --mpi=pmix (Open MPI): rank 5 of 8, 1 of its host');
  // mpirun in a job of Slurm
  assert.equal(found({ ...slurm, ...open }), "Open MPI's mpirun (Open MPI): rank 3 of 4, 1 of its host");
  // one rank; a batch script of Slurm; ranks that shall run alone
  assert.equal(found({ ...open, OMPI_COMM_WORLD_SIZE: '1' }), null);
  assert.equal(found({ SLURM_NTASKS: '8', SLURM_PROCID: '0', SLURM_LOCALID: '0' }), null);
  assert.equal(found({ ...open, DYNAMOE_RANKS: 'off' }), null);
  assert.equal(found({}), null);
});

test('headers and libraries say their versions', () => {
  const open = '#define OMPI_MAJOR_VERSION 4\n#define OMPI_MINOR_VERSION 1\n#define OMPI_RELEASE_VERSION 4\n';
  assert.deepEqual(versionOf(open), { family: 'Open MPI', version: 'Open MPI 4.1.4' });
  const mpi = '#define MPICH_VERSION "4.0.2"\n#define MPI_VERSION 4\n';
  assert.deepEqual(versionOf(mpi), { family: 'MPICH', version: 'MPICH 4.0.2' });
  assert.deepEqual(versionOf(`${mpi}#define I_MPI_VERSION "2021.9.0"\n`), {
    family: 'MPICH',
    version: 'Intel MPI 2021.9.0',
  });
  assert.equal(versionOf('#define MPI_VERSION 4\n'), null);
  assert.equal(mpiOf('Open MPI v4.1.4, package: Debian OpenMPI, ident: 4.1.4'), 'Open MPI 4.1.4');
  assert.equal(mpiOf('MPICH Version:\t4.0.2\nMPICH Release date: ...'), 'MPICH 4.0.2');
  assert.equal(mpiOf('Some MPI 1.0'), null);
});

test('a process that was started alone has no ranks', () => {
  const { status, stdout } = alone({});
  assert.equal(status, 0);
  assert.equal(stdout, 'alone\n');
});

/** The script as one process, without a launcher. */
const alone = (env: Record<string, string>): SpawnSyncReturns<string> =>
  spawnSync(process.execPath, ['--conditions=dynamoe-source', script], {
    env: { ...process.env, ...env },
    encoding: 'utf8',
  });

test('the launcher of one MPI with the library of another', { skip: missing(openMpi, mpich) }, async () => {
  for (const [mpi, other] of [
    [openMpi, mpich],
    [mpich, openMpi],
  ]) {
    const { status, stderr } = await runRanks(mpi, 2, script, [], { MPICC: other.mpicc });
    assert.notEqual(status, 0);
    const says = `${mpi.name}'s mpirun started the ranks, but MPICC (${other.mpicc}) is of ${other.name} `;
    assert.ok(stderr.startsWith(`RanksError: ${says}`), stderr);
    assert.ok(stderr.includes(`\n  hint: MPICC must name the mpicc of ${mpi.name}`), stderr);
    assert.equal(stderr.split('RanksError').length, 2, `one rank says so: ${stderr}`);
  }
});

test('srun without its plug-in for MPI', { skip: missing(openMpi) }, () => {
  const { status, stderr } = alone({ SLURM_STEP_NUM_TASKS: '2', SLURM_PROCID: '0', MPICC: openMpi.mpicc });
  assert.equal(status, 1);
  assert.match(
    stderr,
    /^RanksError: srun started 2 ranks, but Open MPI \S+ sees 1: the launcher is of another MPI\n {2}hint: /m,
  );
});

test('an mpicc that is missing, or does not compile', { skip: missing(openMpi) }, () => {
  const launched = { OMPI_COMM_WORLD_SIZE: '2', OMPI_COMM_WORLD_RANK: '0', OMPI_COMM_WORLD_LOCAL_RANK: '0' },
    folder = mkdtempSync(join(tmpdir(), 'mpicc-'));
  try {
    for (const [env, says] of [
      [
        { MPICC: '/none/mpicc' },
        /^RanksError: MPICC is "\/none\/mpicc": there is no such program\n {2}hint: .*apt install libopenmpi-dev/m,
      ],
      [
        { PATH: folder },
        /^RanksError: Open MPI's mpirun started the ranks, but there is no mpicc of Open MPI\n {2}hint: /m,
      ],
      [{ MPICC: 'gcc' }, /^RanksError: MPICC is "gcc": .*mpi\.h/m],
      [
        { MPICC: `${openMpi.mpicc} -DMPI_Isend=?` },
        /^UserError: mpicc\.openmpi -DMPI_Isend=\? failed on .*mpi\.c: [^]* hint: the mpicc of the launcher/m,
      ],
      [{ DYNAMOE_RANKS_PATIENCE: 'long' }, /^RanksError: DYNAMOE_RANKS_PATIENCE is "long"\n {2}hint: /m],
    ] as const) {
      const { status, stderr } = alone({ ...launched, ...env });
      assert.equal(status, 1);
      assert.match(stderr, says);
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('one rank of a host compiles', { skip: missing(openMpi) }, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'compile-'));
  try {
    const log = join(folder, 'log'),
      compiler = (name: string): string => {
        const path = join(folder, name.replace('.', '-'));
        writeFileSync(path, `#!/bin/sh\ncase "$*" in *-shared*) echo ${name} >> ${log};; esac\nexec ${name} "$@"\n`);
        chmodSync(path, 0o755);
        return path;
      };
    const { status, stdout, stderr } = await runRanks(openMpi, 4, script, [], {
      DYNAMOE_CACHE: join(folder, 'cache'),
      CC: compiler('cc'),
      MPICC: compiler(openMpi.mpicc),
    });
    assert.equal(status, 0, stderr);
    assert.equal(stdout.match(/^rank \d: Open MPI .*, 4 ranks on 1 host$/gm)?.length, 4, stdout);
    // The driver, the library of MPI, and one file of kernels.
    assert.deepEqual(readFileSync(log, 'utf8').trim().split('\n'), ['cc', openMpi.mpicc, 'cc']);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
