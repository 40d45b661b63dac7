// Parses JSON files written by people and editors.
import { UserError } from '../base/errors.ts';
import { wideEncoding, withoutMark } from './encoding.ts';
import { shownPath } from './fault.ts';

/**
 * The value of a JSON file. A byte order mark is ignored. where: the file's name for errors. Throws a UserError that
 * says what is wrong.
 */
export function parseJson(bytes: Uint8Array, where: string): unknown {
  const wide = wideEncoding(bytes),
    name = shownPath(where);
  if (wide)
    throw new UserError(
      `${name} is text in ${wide}, JSON is in UTF-8`,
      `save it as UTF-8, or convert it: iconv -f ${wide} -t UTF-8`,
    );
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(withoutMark(bytes))) as unknown;
  } catch (error) {
    const why = error instanceof SyntaxError ? error.message : 'it is not text in UTF-8';
    throw new UserError(`${name} is not JSON: ${why}`, 'correct the file, or write it again', error);
  }
}
