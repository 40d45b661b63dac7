// Text files as a dataset. In: files, folders, globs; out: batches of windows over their bytes (text.ts).
import { UserError } from '../base/errors.ts';
import { findFiles } from './find-files.ts';
import { readTextFiles } from './read-files.ts';
import { TextDataset, type TextOptions } from './text.ts';

/**
 * A dataset of the bytes of text files. Folders are searched recursively, without names that begin with a dot. Binary
 * and empty files, and files in UTF-16, are left out, and one line says so. A UTF-8 byte order mark does not count as
 * text. All files are read when the first batch or count is requested, and stay in memory.
 */
export function text(paths: string | readonly string[], options: TextOptions = {}): TextDataset {
  const list = typeof paths === 'string' ? [paths] : paths;
  if (list.length === 0) throw new UserError('text: no path given', 'name files, folders or globs');
  return new TextDataset(list.join(', '), async () => readTextFiles(await findFiles(list)), options);
}
