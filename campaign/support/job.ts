// A command over ranks: mpirun and the processes that it starts, found by a variable of their environment. In: a
// number of ranks of Open MPI or MPICH. Out: processes of ranks, how the job ended, and what is left of it.
import { randomUUID } from 'node:crypto';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { availableParallelism, loadavg } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { missing, mpich, openMpi, type Mpi } from '../../tests/support/mpi.ts';
import { start, type Ended, type StartOptions } from './dynamoe.ts';

/** How many ranks of which MPI; 'none': one process without mpirun. */
export interface Ranks {
  readonly mpi: 'Open MPI' | 'MPICH' | 'none';
  readonly ranks: number;
}

const MARK = 'DYNAMOE_CAMPAIGN_JOB',
  LOOK = 20; // ms between two looks at processes

const hasMpich = missing(mpich) === false;
/** Where MPICH is not installed, Open MPI takes its place. */
const launcherOf = ({ mpi }: Ranks): Mpi => (mpi === 'MPICH' && hasMpich ? mpich : openMpi);

export interface JobOptions extends Pick<StartOptions, 'env' | 'preload'> {
  /** Called for each line of JSON on stdout. */
  readonly line?: (line: string) => void;
}

interface Process {
  readonly pid: number;
  /** null: mpirun, a part of it, or a compiler. */
  readonly rank: number | null;
}

export class Job {
  readonly ended: Promise<Ended>;
  /** Of mpirun, or of the one process. */
  readonly pid: number;
  readonly #id = randomUUID();
  #isOver = false;

  constructor(args: readonly string[], ranks: Ranks, { env = {}, preload = [], line }: JobOptions) {
    const { mpirun, args: words } = launcherOf(ranks),
      { child, ended } = start(args, {
        launcher: ranks.mpi === 'none' ? [] : [mpirun, ...words, '-n', String(ranks.ranks)],
        preload,
        env: {
          ...env,
          [MARK]: this.#id,
          NO_COLOR: '1',
          // Open MPI refuses to run as root otherwise.
          OMPI_ALLOW_RUN_AS_ROOT: '1',
          OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: '1',
        },
        // MPICH's mpirun writes messages of its own to stdout.
        line: (text) => {
          if (text.startsWith('{')) line?.(text);
        },
      });
    this.pid = child.pid ?? 0;
    this.ended = ended.finally(() => {
      this.#isOver = true;
    });
  }

  /** The process of a rank, once it runs; null: the job has ended before. */
  async rank(rank: number): Promise<number | null> {
    while (!this.#isOver) {
      const found = this.#processes().find((p) => p.rank === rank);
      if (found) return found.pid;
      await sleep(LOOK);
    }
    return null;
  }

  /** Waits until no process of the job is left. Gives those that are left after `ms`: `rank 1`, `gcc`. */
  async gone(ms: number): Promise<readonly string[]> {
    const end = performance.now() + ms;
    for (;;) {
      const left = this.#processes();
      if ((left.length === 0 && this.#isOver) || performance.now() > end)
        return left.map(({ pid, rank }) => (rank === null ? nameOf(pid) : `rank ${rank}`));
      await sleep(LOOK);
    }
  }

  /** Ends what is left of the job. */
  kill(): void {
    for (const { pid } of this.#processes()) send(pid, 'SIGKILL');
  }

  #processes(): Process[] {
    const found: Process[] = [];
    for (const name of readdirSync('/proc')) {
      const pid = Number(name);
      if (!(pid > 0)) continue;
      const env = read(`/proc/${pid}/environ`).split('\0');
      if (!env.includes(`${MARK}=${this.#id}`)) continue;
      const rank = env.map((text) => /^(?:OMPI_COMM_WORLD_RANK|PMI_RANK)=(\d+)$/.exec(text)?.[1]).find((n) => n);
      found.push({ pid, rank: rank === undefined || exeOf(pid) !== process.execPath ? null : Number(rank) });
    }
    return found;
  }
}

/** Sends a signal. false: the process has already ended. */
export function send(pid: number, signal: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, signal);
  } catch {
    return false;
  }
}

/** A time limit in ms on an idle machine, for this machine: with other work everything takes longer. */
export const onThisMachine = (ms: number): number => ms * Math.max(1, loadavg()[0] / availableParallelism());

function read(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return ''; // the process has ended
  }
}

const nameOf = (pid: number): string => read(`/proc/${pid}/comm`).trim() || 'a process';

function exeOf(pid: number): string {
  try {
    return readlinkSync(`/proc/${pid}/exe`);
  } catch {
    return '';
  }
}
