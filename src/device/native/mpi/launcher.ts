// Which launcher has started this process as one of many ranks: launchers say so in environment variables.
import { readlinkSync } from 'node:fs';
import { dirname } from 'node:path';

/** The families of MPI, each with an ABI of its own. */
export type Family = 'Open MPI' | 'MPICH';

export interface Launched {
  /** For messages: `Open MPI's mpirun`. */
  readonly by: string;
  /** The family whose library understands the launcher; null: the environment does not say. */
  readonly family: Family | null;
  readonly rank: number;
  /** The environment variable that has `rank`. */
  readonly variable: string;
  readonly size: number;
  /** This rank among those of its host. */
  readonly onHost: number;
  /** Folder of the program that started this process: it may have the launcher's mpicc. */
  readonly folder: string | null;
}

type Names = readonly [by: string, family: Family | null, size: string, rank: string, onHost: string];

// The first whose variables are set decides: a launcher may itself run under srun.
const LAUNCHERS: readonly Names[] = [
  ["Open MPI's mpirun", 'Open MPI', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK'],
  ["MVAPICH's mpirun", 'MPICH', 'MV2_COMM_WORLD_SIZE', 'MV2_COMM_WORLD_RANK', 'MV2_COMM_WORLD_LOCAL_RANK'],
  ['srun --mpi=pmix', 'Open MPI', 'SLURM_STEP_NUM_TASKS', 'PMIX_RANK', 'SLURM_LOCALID'],
  ["MPICH's mpirun", 'MPICH', 'PMI_SIZE', 'PMI_RANK', 'MPI_LOCALRANKID'],
  ['srun', null, 'SLURM_STEP_NUM_TASKS', 'SLURM_PROCID', 'SLURM_LOCALID'],
];

/**
 * What the environment says; null: this process was started alone, as one rank, or with DYNAMOE_RANKS=off. (An
 * allocation of Slurm also has variables, but only srun sets the number of tasks of a step.)
 */
export function findLauncher(env: Readonly<Record<string, string | undefined>>): Launched | null {
  if (env['DYNAMOE_RANKS'] === 'off') return null;
  for (const [name, family, sizeName, rankName, onHostName] of LAUNCHERS) {
    const size = Number(env[sizeName] ?? NaN),
      rank = Number(env[rankName] ?? NaN);
    if (!Number.isInteger(size) || !Number.isInteger(rank)) continue;
    if (size <= 1) return null;
    const byPmi = sizeName === 'PMI_SIZE' && env['SLURM_STEP_ID'] !== undefined && env[onHostName] === undefined,
      onHost = Number(env[onHostName] ?? env['SLURM_LOCALID'] ?? rank);
    return {
      by: byPmi ? 'srun --mpi=pmi2' : name,
      family,
      rank,
      variable: rankName,
      size,
      onHost,
      folder: parentFolder(),
    };
  }
  return null;
}

function parentFolder(): string | null {
  try {
    return dirname(readlinkSync(`/proc/${process.ppid}/exe`));
  } catch {
    return null; // not Linux, or a process of another user
  }
}
