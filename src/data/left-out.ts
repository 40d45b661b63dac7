// Paths of text that were left out, and the words for them. Only files are left out: text in memory needs none of it.
import { listed } from '../base/words.ts';

/**
 * A path that was left out, and why. 'hidden': the name begins with a dot; 'again': another path to a file that is read
 * already; 'unreadable': found in a folder, but this user may not read it; 'no file': a pipe, a socket, a device.
 */
export interface Skipped {
  readonly path: string;
  readonly reason: keyof typeof REASONS;
}
/** Words for one and for several paths that were left out, by reason, in the order of the message. */
const REASONS = {
  binary: ['binary file', 'binary files'],
  'UTF-16': ['file in UTF-16', 'files in UTF-16'],
  'UTF-32': ['file in UTF-32', 'files in UTF-32'],
  unreadable: ['thing that may not be read', 'things that may not be read'],
  'name that is not UTF-8': ['name that is not UTF-8', 'names that are not UTF-8'],
  empty: ['empty file', 'empty files'],
  'broken link': ['broken link', 'broken links'],
  'no file': ['pipe or device', 'pipes or devices'],
  again: ['path to a file that was read already', 'paths to files that were read already'],
  hidden: ['name that begins with a dot', 'names that begin with a dot'],
} as const;
const PATHS_SHOWN = 3; // number of paths that the message names for each reason

/** "2 binary files: a, b; 1 empty file: c" */
export function leftOutIn(skipped: readonly Skipped[]): string {
  return (Object.keys(REASONS) as (keyof typeof REASONS)[])
    .flatMap((reason) => {
      const paths = skipped.filter((s) => s.reason === reason).map((s) => s.path),
        [one, many] = REASONS[reason];
      return paths.length === 0
        ? []
        : [`${paths.length} ${paths.length === 1 ? one : many}: ${listed(paths.map(printable), PATHS_SHOWN)}`];
    })
    .join('; ');
}

/** A path in one line. */
const printable = (path: string): string => (/[\x00-\x1f\x7f]/.test(path) ? JSON.stringify(path) : path);
