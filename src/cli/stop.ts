// Being asked to stop: Ctrl-C, SIGTERM, a reader of our output that went away. The first asks the work to come to a good end, the
// second ends the process at once.
import { constants } from 'node:os';

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

/** A closed pipe (`dynamoe ... | head`) ends the command quietly, a run after it has saved. */
export function endWithPipe(): void {
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE') throw error;
      if (active) active.controller.abort();
      else process.exit(0);
    });
  }
}
