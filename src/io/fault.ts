// What the file system refused, in words a user can act on. In: the error that node:fs threw; out: a UserError with the path.
import { UserError } from '../base/errors.ts';

const WORDS: Record<string, readonly [string, string]> = {
  ENOENT: ['no such file or folder', 'check the path; relative paths start at the current folder'],
  EACCES: ['permission denied', 'check who owns it and its mode'],
  EPERM: ['operation not permitted', 'check who owns it and its mode'],
  EROFS: ['the file system is read-only', 'choose a folder on another file system'],
  ENOSPC: ['no space left on the device', 'free some space or choose another folder; what was there before is untouched'],
  EDQUOT: ['disk quota exceeded', 'free some space or choose another folder; what was there before is untouched'],
  EFBIG: ['the file would be too large for this file system', 'choose a folder on another file system'],
  EISDIR: ['it is a folder', 'name a file'],
  ENOTDIR: ['a part of the path is a file, not a folder', 'check the path'],
  EEXIST: ['it exists already', 'choose another name'],
  EMFILE: ['too many open files', 'raise the limit (ulimit -n)'],
  ELOOP: ['too many symbolic links', 'the links may form a loop'],
  ENAMETOOLONG: ['the name is too long', 'choose a shorter one'],
};

/** The `code` of a system error ('ENOENT'), or undefined for anything else. */
export const codeOf = (error: unknown): string | undefined =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;

/** `fault('write', path, error)`: "cannot write PATH: no space left on the device". Errors without a code come back as they are. */
export function fault(verb: string, path: string, error: unknown): unknown {
  const code = codeOf(error);
  if (code === undefined || error instanceof UserError) return error;
  const [what, hint] = WORDS[code] ?? [code, undefined];
  return new UserError(`cannot ${verb} ${path}: ${what}`, hint, error);
}
