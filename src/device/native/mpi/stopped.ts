// Notices that another rank of this host was stopped while this one waits for it, before MPI has started. Later the
// library does this itself (start.h, exchange.h).
import { readdirSync, readFileSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { RanksError } from '../../ranks.ts';
import type { Launched } from './launcher.ts';

const LOOK_MS = 250,
  LAST_WORDS_MS = 100, // a launcher has read what this process has written
  LAUNCHER_MS = 2000; // a launcher has ended the other ranks

/** Another rank was stopped; that one cannot say so itself. */
export class StoppedRank extends RanksError {
  override readonly name = 'StoppedRank';
}

/** A stopped rank among the processes that the launcher of this one has started; null: none. */
function stoppedRank(variable: string): { readonly pid: number; readonly rank: number } | null {
  for (const pid of readdirSync('/proc'))
    if (/^\d+$/.test(pid))
      try {
        // After the name, which may contain anything: the state and the parent.
        const [, state, parent] = /.*\) (\S) (\d+)/s.exec(readFileSync(`/proc/${pid}/stat`, 'utf8')) ?? [];
        if (state !== 'T' || Number(parent) !== process.ppid) continue;
        const own = readFileSync(`/proc/${pid}/environ`, 'latin1')
          .split('\0')
          .find((text) => text.startsWith(`${variable}=`));
        if (own !== undefined) return { pid: Number(pid), rank: Number(own.slice(variable.length + 1)) };
      } catch {
        /* the process has ended, or belongs to another user */
      }
  return null;
}

/**
 * When another rank of this host has been stopped for `silence` seconds, says so and ends its process: the launcher
 * then ends the others. Rejects with StoppedRank if it does not.
 * Resolves when `signal` is aborted.
 */
export async function watchStopped(
  { variable, rank, onHost }: Launched,
  silence: number,
  signal: AbortSignal,
): Promise<void> {
  // The first rank that notices it ends, and the launcher ends the others.
  const enough = silence * 1000 + onHost * LOOK_MS;
  for (let seen = 0; ;) {
    await sleep(LOOK_MS, undefined, { signal }).catch(() => undefined);
    if (signal.aborted) return;
    const stopped = stoppedRank(variable);
    seen = stopped === null ? 0 : seen + LOOK_MS;
    if (stopped === null || seen < enough) continue;
    const line = `rank ${rank}: rank ${stopped.rank} was stopped before all ranks had started`;
    // MPICH's launcher would wait for the stopped process. When that ends, launchers end this one at once.
    writeSync(2, `${line}\n`);
    await sleep(LAST_WORDS_MS);
    process.kill(stopped.pid, 'SIGKILL');
    await sleep(LAUNCHER_MS);
    throw new StoppedRank(line);
  }
}
