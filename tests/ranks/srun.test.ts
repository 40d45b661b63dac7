// srun starts ranks without mpirun: through PMIx for Open MPI, through PMI-2 for MPICH. Needs a running Slurm, such as
// tests/support/slurm.sh starts.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';
import { mpich, openMpi, runRanks, scriptPath, type Mpi } from '../support/mpi.ts';

const script = join(import.meta.dirname, 'train.ts'),
  WORKS = ['dropless', 'spill'];

/** Starts ranks by srun with one of its plugins. Ranks may share cores, and wait for other jobs. */
const srun = ({ name, mpicc }: Mpi, plugin: string): Mpi => ({
  name,
  mpirun: 'srun',
  mpicc,
  args: [`--mpi=${plugin}`, '--overcommit', '--quiet'],
});

function output(command: string, ...args: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8', timeout: 10_000 });
  return status === 0 ? stdout + stderr : '';
}

/** Why a test cannot run here; false: it can. */
function missing({ mpicc }: Mpi, plugin: string): string | false {
  if (process.platform !== 'linux' || !output('scontrol', 'ping').includes(' is UP')) return 'no Slurm is running';
  if (!output('srun', '--mpi=list').split(/\s+/).includes(plugin)) return `this Slurm has no plugin ${plugin}`;
  return output(mpicc, '--version') === '' && `${mpicc} is not installed`;
}

function alone(): string {
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--conditions=dynamoe-source', script, ...WORKS], {
    encoding: 'utf8',
    env: { ...process.env, NO_COLOR: '1', DYNAMOE_RANKS: 'off' },
  });
  assert.equal(status, 0, stderr);
  return stdout;
}

let one: string | undefined;
for (const [mpi, plugin] of [
  [openMpi, 'pmix'],
  [mpich, 'pmi2'],
] as const) {
  const skip = missing(mpi, plugin);
  test(`2 ranks of srun --mpi=${plugin} train with the bits of one process`, { skip }, async () => {
    const { status, stdout, stderr } = await runRanks(srun(mpi, plugin), 2, script, WORKS);
    assert.equal(status, 0, stderr);
    assert.equal(stdout, (one ??= alone()));
  });

  test(`a rank that fails ends all ranks of srun --mpi=${plugin}`, { skip }, async () => {
    const { status, stderr } = await runRanks(srun(mpi, plugin), 2, scriptPath('failures'), ['throw']);
    assert.ok(status !== null && status !== 0, stderr);
    assert.match(stderr, /^rank 1, step 5: TypeError: a bug$/m);
  });
}

test('srun without a plugin of MPI is named', { skip: missing(mpich, 'none') }, async () => {
  const env = { MPICC: mpich.mpicc },
    { status, stderr } = await runRanks(srun(mpich, 'none'), 2, script, WORKS, env);
  assert.ok(status !== null && status !== 0, stderr);
  assert.match(stderr, /srun started 2 ranks, but MPICH [\d.]+ sees 1: the launcher is of another MPI/);
  assert.match(stderr, /srun --mpi=pmi2/);
});
