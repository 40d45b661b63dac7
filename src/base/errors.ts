// Errors that a user can act on: what was wrong, where, and a hint. Any other error that is thrown is a bug in this
// library.

/** An error in the user's input (model, data, flags, files). `hint` says what to do about it. */
export class UserError extends Error {
  override readonly name: string = 'UserError';
  readonly hint: string | undefined;
  constructor(message: string, hint?: string, cause?: unknown) {
    super(hint === undefined ? message : `${message}\n  hint: ${hint}`, cause === undefined ? undefined : { cause });
    this.hint = hint;
  }
}

/** A shape or dtype that does not fit: names the op, the shapes it saw and the place in the user's code. */
export class ShapeError extends UserError {
  override readonly name: string = 'ShapeError';
}

/** A check inside the compiler failed: the compiler is wrong, not the user. */
export class VerifyError extends Error {
  override readonly name: string = 'VerifyError';
  constructor(stage: string, message: string) {
    super(`${stage}: ${message} (this is a bug in DynaMoE)`);
  }
}

export const asError = (error: unknown): Error => (error instanceof Error ? error : new Error(String(error)));
/** The first line of its message. */
export const messageOf = (error: unknown): string => asError(error).message.split('\n')[0];

/** The first line of the stack that is outside this library: the place in the user's code from which a call came. */
export function callSite(): string | undefined {
  const url = import.meta.url as string | undefined; // a bundle may be a script, not a module
  if (url === undefined) return undefined;
  // The default limit of ten frames may end inside nested modules.
  const limits = Error as { stackTraceLimit?: number },
    before = limits.stackTraceLimit;
  limits.stackTraceLimit = 100;
  const lines = (new Error().stack ?? '').split('\n').slice(1);
  if (before !== undefined) limits.stackTraceLimit = before;
  const here = url.replace(/base\/errors\.[jt]s$/, '');
  const outside = lines.find(
    (line) => !line.includes(here) && !line.includes('node:internal') && !line.includes('<anonymous>)'),
  );
  return outside?.trim().replace(/^at (?:async )?/, '');
}
