// Markdown as the checks of the documents want it, so that printed tables can be pasted into docs/. In: Markdown; out:
// the same as Prettier formats it, with headings of at most 120 columns, which Prettier does not break.
import { join } from 'node:path';
import { format, resolveConfig } from 'prettier';

const COLUMNS = 120;

/** A heading of level 3. If it is too long, the part after the first colon becomes a paragraph below it. */
export function titleLines(title: string): string[] {
  const colon = title.indexOf(': ');
  return colon < 0 || `### ${title}`.length <= COLUMNS
    ? [`### ${title}`, '']
    : [`### ${title.slice(0, colon)}`, '', title.slice(colon + 2), ''];
}

/** The text with the settings of this repository's formatter. */
export async function formatted(markdown: string): Promise<string> {
  const settings = await resolveConfig(join(import.meta.dirname, '../../README.md'));
  return format(markdown, { ...settings, parser: 'markdown' });
}
