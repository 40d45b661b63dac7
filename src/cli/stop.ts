// Handles requests to stop: Ctrl-C, SIGTERM, SIGHUP (closed terminal, broken connection), and a closed pipe behind
// stdout. The first request ends the work gracefully; a second Ctrl-C or SIGTERM ends the process at once.
import { constants } from 'node:os';
import { EXIT } from './fail.ts';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
/** Launchers of ranks forward this one, and Slurm can send it some time before a job ends (--signal=USR1@120). */
const OF_RANKS = 'SIGUSR1';
let active: { readonly controller: AbortController; code: number } | undefined;

/**
 * Runs `work` with a signal that is set when it should stop. Returns its result and, if it was stopped, the exit code.
 * ranks: this process is one of several.
 */
export async function stoppable<T>(
  work: (stop: AbortSignal) => Promise<T>,
  onStop: () => void,
  ranks = false,
): Promise<{ result: T; code: number | null }> {
  const signals = ranks ? ([...SIGNALS, OF_RANKS] as const) : SIGNALS;
  const state = { controller: new AbortController(), code: 0, since: 0 };
  const stop = (signal: (typeof signals)[number]): void => {
    const code = 128 + constants.signals[signal];
    if (state.controller.signal.aborted) {
      // One Ctrl-C may arrive twice under npm and npx: from the terminal, and forwarded by npm if its shell is bash. A
      // closed terminal and each shell in it send SIGHUP, and no user is waiting then.
      if (signal === 'SIGHUP' || performance.now() - state.since < 300) return;
      process.exit(code);
    }
    state.code = code;
    state.since = performance.now();
    state.controller.abort();
    onStop();
  };
  active = state;
  for (const signal of signals) process.on(signal, stop);
  try {
    const result = await work(state.controller.signal);
    return { result, code: state.controller.signal.aborted ? state.code : null };
  } finally {
    active = undefined;
    for (const signal of signals) process.off(signal, stop);
  }
}

/**
 * A closed pipe (`dynamoe ... | head`) or terminal ends the command silently; a full disk behind stdout ends it with
 * an error. A training run is saved first.
 */
export function endWithPipe(): void {
  for (const stream of [process.stdout, process.stderr]) {
    let failed = false;
    stream.on('error', (error: NodeJS.ErrnoException) => {
      const closed = error.code === 'EPIPE' || error.code === 'EIO'; // EIO: the terminal was closed
      if (!closed && !failed && stream === process.stdout)
        process.stderr.write(`dynamoe: cannot write to stdout: ${error.message}\n`);
      if (!closed) process.exitCode = EXIT.failure;
      failed = true;
      if (!active) process.exit(closed ? 0 : EXIT.failure);
      if (!closed) active.code = EXIT.failure;
      active.controller.abort();
    });
  }
}
