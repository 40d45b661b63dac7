// Starts scripts as ranks of Open MPI and MPICH, where they are installed.
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Longer than any run takes, so that a run that hangs is seen: ms. */
const LIMIT = 240_000;

export interface Mpi {
  readonly name: 'Open MPI' | 'MPICH';
  readonly mpirun: string;
  readonly mpicc: string;
  /** Arguments of mpirun: ranks may share cores. */
  readonly args: readonly string[];
}

export const openMpi: Mpi = {
  name: 'Open MPI',
  mpirun: 'mpirun.openmpi',
  mpicc: 'mpicc.openmpi',
  args: ['--oversubscribe', '--bind-to', 'none'],
};
export const mpich: Mpi = { name: 'MPICH', mpirun: 'mpirun.mpich', mpicc: 'mpicc.mpich', args: [] };

const runs = (command: string): boolean => spawnSync(command, ['--version'], { timeout: 10_000 }).status === 0;

/** For the option `skip` of a test: why it cannot run here; false: it can. */
export function missing(...mpis: readonly Mpi[]): string | false {
  if (process.platform !== 'linux') return 'MPI is tested on Linux';
  const absent = mpis.filter(({ mpirun, mpicc }) => !runs(mpirun) || !runs(mpicc));
  return absent.length > 0 && `${absent.map(({ mpirun }) => mpirun).join(' and ')} is not installed with its mpicc`;
}

export interface Ended {
  /** Exit status of mpirun; null: it had to be killed. */
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Running {
  readonly ended: Promise<Ended>;
  /** What it has written to stdout so far. */
  readonly output: () => string;
}

/** Runs a TypeScript file as n ranks. */
export const runRanks = (...given: Parameters<typeof startRanks>): Promise<Ended> => startRanks(...given).ended;

export function startRanks(
  { mpirun, args }: Mpi,
  n: number,
  script: string,
  words: readonly string[] = [],
  env: Readonly<Record<string, string>> = {},
): Running {
  // A rank that is killed leaves its shared memory behind.
  const folder = mkdtempSync(join(tmpdir(), 'ranks-')),
    node = [process.execPath, '--conditions=dynamoe-source', script, ...words],
    child = spawn(mpirun, [...args, '-n', String(n), ...node], {
      env: {
        ...process.env,
        NO_COLOR: '1',
        // Open MPI refuses to run as root otherwise.
        OMPI_ALLOW_RUN_AS_ROOT: '1',
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: '1',
        OMPI_MCA_btl_vader_backing_directory: folder,
        ...env,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
  let stdout = '',
    stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  const ended = new Promise<Ended>((resolve, reject) => {
    const limit = setTimeout(() => {
      child.kill('SIGKILL');
    }, LIMIT);
    child.on('error', reject);
    child.on('close', (status) => {
      clearTimeout(limit);
      rmSync(folder, { recursive: true, force: true });
      resolve({ status, stdout, stderr });
    });
  });
  return { ended, output: () => stdout };
}

export const scriptPath = (name: string): string =>
  join(import.meta.dirname, '..', 'device', 'ranks', 'scripts', `${name}.ts`);
