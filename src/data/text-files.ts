// Text files as a dataset. In: files, folders, globs; out: batches of windows over their bytes (text.ts).
import { UserError } from '../base/errors.ts';
import { findFiles } from './find-files.ts';
import { readTextFiles } from './read-files.ts';
import { TextDataset, type TextOptions } from './text.ts';

/**
 * The bytes of text files. Folders are searched through (names that begin with a dot are passed over); binary and empty
 * files, and those in UTF-16, are left out, and that is told in one line. A UTF-8 byte order mark is no text. Nothing
 * is read before the first batch or count is asked for; then all of it is, once, and stays in memory.
 */
export function text(paths: string | readonly string[], options: TextOptions = {}): TextDataset {
  const list = typeof paths === 'string' ? [paths] : paths;
  if (list.length === 0) throw new UserError('text: no path given', 'name files, folders or globs');
  return new TextDataset(list.join(', '), async () => readTextFiles(await findFiles(list)), options);
}
