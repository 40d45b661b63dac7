// Being asked to stop: Ctrl-C, SIGTERM, SIGHUP (a terminal that is closed, a connection that breaks), a reader of our
// output that went away. The first asks the work to come to a good end, a second Ctrl-C or SIGTERM ends the process at
// once.
import { constants } from 'node:os';
import { EXIT } from './fail.ts';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
let active: { readonly controller: AbortController; code: number } | undefined;

/**
 * Runs `work` with a signal that is set when it should stop; gives its result and, if it was asked to, the exit code.
 */
export async function stoppable<T>(
  work: (stop: AbortSignal) => Promise<T>,
  onStop: () => void,
): Promise<{ result: T; code: number | null }> {
  const state = { controller: new AbortController(), code: 0, since: 0 };
  const stop = (signal: (typeof SIGNALS)[number]): void => {
    const code = 128 + constants.signals[signal];
    if (state.controller.signal.aborted) {
      // Under npm and npx one Ctrl-C may come twice: from the terminal, and passed on by npm where its shell is bash. A
      // terminal that is closed sends SIGHUP, and so does each shell in it: nobody waits there.
      if (signal === 'SIGHUP' || performance.now() - state.since < 300) return;
      process.exit(code);
    }
    state.code = code;
    state.since = performance.now();
    state.controller.abort();
    onStop();
  };
  active = state;
  for (const signal of SIGNALS) process.on(signal, stop);
  try {
    const result = await work(state.controller.signal);
    return { result, code: state.controller.signal.aborted ? state.code : null };
  } finally {
    active = undefined;
    for (const signal of SIGNALS) process.off(signal, stop);
  }
}

/**
 * A closed pipe (`dynamoe ... | head`) or terminal ends the command quietly, a full disk behind stdout with an error; a
 * run after it has saved.
 */
export function endWithPipe(): void {
  for (const stream of [process.stdout, process.stderr]) {
    let failed = false;
    stream.on('error', (error: NodeJS.ErrnoException) => {
      const closed = error.code === 'EPIPE' || error.code === 'EIO'; // EIO: a terminal that is gone
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
