// Turns errors of the file system into UserErrors that name the path and say what to do.
import { getSystemErrorMap } from 'node:util';
import { UserError } from '../base/errors.ts';

const OTHER = 'choose a folder on another file system',
  SPACE = 'free some space or choose another folder; what was there before is untouched';
const OWNER = 'check who owns it and its mode';

/** Meaning and advice for error codes. Other codes get the system's own text. */
const WORDS: Record<string, readonly [what: string, hint: string]> = {
  ENOENT: ['no such file or folder', 'check the path; relative paths start at the current folder'],
  EACCES: ['permission denied', OWNER],
  EPERM: ['operation not permitted', OWNER],
  EROFS: ['the file system is read-only', OTHER],
  ENOSPC: ['no space left on the device', SPACE],
  EDQUOT: ['disk quota exceeded', SPACE],
  EFBIG: ['the file would be too large for this file system', OTHER],
  EISDIR: ['it is a folder', 'name a file'],
  ENOTDIR: ['a part of the path is a file, not a folder', 'check the path'],
  ENOTEMPTY: ['the folder is not empty', 'choose another name'],
  EEXIST: ['it exists already', 'choose another name'],
  EMFILE: ['too many open files', 'raise the limit (ulimit -n)'],
  ENFILE: ['too many open files on this machine', 'close other programs, or raise the limit of the system'],
  ELOOP: ['too many symbolic links', 'the links may form a loop'],
  ENAMETOOLONG: ['the name is too long', 'choose a shorter one'],
  EIO: ['the device failed', 'look at the system log; copy what can still be read'],
  ESTALE: ['the network file system no longer knows it', 'mount it again'],
  ETXTBSY: ['it is a program that is running', 'choose another name'],
  ERR_FS_FILE_TOO_LARGE: ['it is larger than 2 GiB', 'split it'],
};

/** The `code` of a system error, such as 'ENOENT'; undefined for other errors. */
export const codeOf = (error: unknown): string | undefined =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;

/** The reason of a node:fs error without the path, such as "no space left on the device". */
export function reasonOf(error: unknown): string {
  const code = codeOf(error);
  return code === undefined ? String(error) : (WORDS[code]?.[0] ?? systemWords(error) ?? code);
}

const systemWords = (error: unknown): string | undefined =>
  error instanceof Error && 'errno' in error && typeof error.errno === 'number'
    ? getSystemErrorMap().get(error.errno)?.[1]
    : undefined;

/**
 * `fault('write', path, error)` gives a UserError "cannot write PATH: no space left on the device". Errors without a
 * code are returned unchanged.
 */
export function fault(verb: string, path: string, error: unknown): unknown {
  const code = codeOf(error);
  if (code === undefined || error instanceof UserError) return error;
  return new UserError(`cannot ${verb} ${shownPath(path)}: ${reasonOf(error)}`, WORDS[code]?.[1], error);
}

/** A path for a one-line message: in quotation marks if it contains control characters such as line breaks. */
export const shownPath = (path: string): string => (/[\x00-\x1f\x7f]/.test(path) ? JSON.stringify(path) : path);
