// Being asked to stop: Ctrl-C, SIGTERM, a reader of our output that went away. The first asks the work to come to a good end, the
// second ends the process at once.
import { constants } from 'node:os';
import { EXIT } from './fail.ts';

let active: { readonly controller: AbortController; code: number } | undefined;

/** Runs `work` with a signal that is set when it should stop; gives its result and, if it was asked to, the exit code. */
export async function stoppable<T>(work: (stop: AbortSignal) => Promise<T>, onStop: () => void): Promise<{ result: T; code: number | null }> {
  const state = { controller: new AbortController(), code: 0, since: 0 };
  const stop = (signal: 'SIGINT' | 'SIGTERM'): void => {
    const code = 128 + constants.signals[signal];
    // Under npm and npx one Ctrl-C may come twice: from the terminal, and passed on by npm where its shell is bash.
    if (state.controller.signal.aborted && performance.now() - state.since < 300) return;
    if (state.controller.signal.aborted) process.exit(code);
    state.code = code;
    state.since = performance.now();
    state.controller.abort();
    onStop();
  };
  active = state;
  process.on('SIGINT', stop).on('SIGTERM', stop);
  try {
    const result = await work(state.controller.signal);
    return { result, code: state.controller.signal.aborted ? state.code : null };
  } finally {
    active = undefined;
    process.off('SIGINT', stop).off('SIGTERM', stop);
  }
}

/** A closed pipe (`dynamoe ... | head`) ends the command quietly, a full disk behind stdout with an error; a run after it has saved. */
export function endWithPipe(): void {
  for (const stream of [process.stdout, process.stderr]) {
    let failed = false;
    stream.on('error', (error: NodeJS.ErrnoException) => {
      const closed = error.code === 'EPIPE';
      if (!closed && !failed && stream === process.stdout) process.stderr.write(`dynamoe: cannot write to stdout: ${error.message}\n`);
      if (!closed) process.exitCode = EXIT.failure;
      failed = true;
      if (!active) process.exit(closed ? 0 : EXIT.failure);
      if (!closed) active.code = EXIT.failure;
      active.controller.abort();
    });
  }
}
