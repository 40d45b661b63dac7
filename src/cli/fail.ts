// How the command line reports errors: a message, a hint, an exit code; with --debug also the stack.
import { CommanderError } from 'commander';
import { UserError } from '../base/errors.ts';
import { ConfigError } from '../train/config-error.ts';

/** Exit codes. */
export const EXIT = { failure: 1, usage: 2, interrupted: 130 } as const;

/** Ends the command with an exit code. The reason has been printed already. */
export class Exit extends Error {
  readonly code: number;
  constructor(code: number) {
    super(`exit ${code}`);
    this.code = code;
  }
}

/** Writes the error to stderr and returns the exit code. */
export function report(error: unknown, debug: boolean): number {
  if (error instanceof Exit) return error.code;
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : EXIT.usage; // commander has written it
  const known = error instanceof UserError,
    message = error instanceof Error ? error.message : String(error);
  process.stderr.write(`dynamoe: ${message}\n`);
  if (debug && error instanceof Error) process.stderr.write(`${error.stack ?? ''}\n${causeOf(error)}`);
  else if (!known) process.stderr.write('  this is a bug in DynaMoE; --debug shows where\n');
  return error instanceof ConfigError ? EXIT.usage : EXIT.failure;
}

const causeOf = ({ cause }: Error): string =>
  cause instanceof Error ? `caused by ${cause.stack ?? cause.message}\n` : '';
