// Reads the fenced blocks of README.md, docs/ and the other documents, in order. In: the repository. Out: blocks with
// their file and line.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../..', import.meta.url));

export interface Block {
  /** README.md:12 */
  readonly at: string;
  readonly file: string;
  readonly language: string;
  readonly text: string;
}

/** Paths of the documents from the root, with slashes. */
export const documents: readonly string[] = [
  'README.md',
  'CONTRIBUTING.md',
  'CHANGELOG.md',
  'SECURITY.md',
  'examples/README.md',
  ...readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' })
    .filter((f) => f.endsWith('.md'))
    .map((f) => `docs/${f.replaceAll('\\', '/')}`)
    .sort(),
];

export function blocksOf(file: string, source = readFileSync(join(root, file), 'utf8')): Block[] {
  const blocks: Block[] = [];
  let open: { at: number; language: string; lines: string[] } | null = null;
  source.split('\n').forEach((line, i) => {
    if (/^\s*```/.test(line)) {
      if (open) {
        blocks.push({ at: `${file}:${open.at}`, file, language: open.language, text: open.lines.join('\n') });
        open = null;
      } else open = { at: i + 1, language: line.trim().slice(3), lines: [] };
    } else open?.lines.push(line);
  });
  if (open) throw new Error(`${file}: a block is not closed`);
  return blocks;
}

/** The document without its blocks, so that only headings and links of the text remain. */
export const proseOf = (file: string): string =>
  readFileSync(join(root, file), 'utf8').replace(/^[ ]*```[^]*?^[ ]*```/gm, '');
