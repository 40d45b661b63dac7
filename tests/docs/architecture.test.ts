// The architecture pages: each is short and begins with a picture, and all files and names that it mentions exist.
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { test } from 'node:test';
import { blocksOf, documents, proseOf, root } from './blocks.ts';

const pages = documents.filter((file) => file.startsWith('docs/architecture/'));
/** The number of words that a reader can read in about five minutes. */
const MOST_WORDS = 900;
const TOP = /^(?:src|tests|docs|campaign|tools|web|examples|bench|bin)(?:\/|$)/;

test('each page can be read in five minutes, and begins with a picture', () => {
  assert.ok(pages.length >= 9);
  for (const file of pages) {
    const text = readFileSync(join(root, file), 'utf8'),
      [picture] = blocksOf(file);
    const words = proseOf(file)
      .split(/\s+/)
      .filter((word) => /\w/.test(word)).length;
    assert.ok(words <= MOST_WORDS, `${file} has ${words} words`);
    assert.equal(picture?.language, 'text', file);
    assert.ok(text.slice(0, text.indexOf('```')).split('\n').length < 9, `${file}: the picture stands near the top`);
    const long = text
      .split('\n')
      .filter((line) => line.length > 120 && !line.startsWith('|') && !line.includes('http'));
    assert.deepEqual(long, [], file);
  }
});

test('the index lists every page', () => {
  const index = readFileSync(join(root, 'docs/architecture/README.md'), 'utf8');
  const others = pages
    .filter((file) => !file.endsWith('/README.md'))
    .map((file) => file.slice(file.lastIndexOf('/') + 1));
  assert.deepEqual(
    others.filter((name) => !new RegExp(`^\\| \\[${name}\\]\\(${name}\\) +\\|`, 'm').test(index)),
    [],
  );
});

/** The files in the folders that pages mention. */
const files = ['src', 'tests', 'campaign', 'tools', 'web', 'bin', 'examples'].flatMap((folder) =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .map((name) => join(folder, name))
    .filter((path) => !path.includes('node_modules') && statSync(join(root, path)).isFile()),
);

test('files that pages mention exist', () => {
  const wrong: string[] = [],
    names = new Set(files.map((path) => basename(path)));
  for (const file of [...pages, 'CONTRIBUTING.md', 'SECURITY.md', 'examples/README.md']) {
    for (const [, path] of readFileSync(join(root, file), 'utf8').matchAll(/`([\w./-]+)`/g)) {
      // NAME is a placeholder. A name without a folder may be in any folder.
      const there = TOP.test(path)
        ? path.includes('NAME') || existsSync(join(root, path))
        : !/^[\w-]+\.(?:ts|mjs|[ch])$/.test(path) || names.has(path);
      if (!there) wrong.push(`${file}: ${path}`);
    }
  }
  assert.deepEqual(wrong, []);
});

test('names that pages mention occur in the source', () => {
  const words = new Set<string>();
  for (const path of files) {
    if (!/\.(?:ts|mjs|[ch])$/.test(path) || path.endsWith('architecture.test.ts')) continue;
    for (const word of readFileSync(join(root, path), 'utf8').match(/[A-Za-z_$][\w$]*/g) ?? []) words.add(word);
  }
  const wrong = pages.flatMap((file) =>
    [...readFileSync(join(root, file), 'utf8').matchAll(/`([A-Za-z_$][\w$.]*)(?:\([^`]*\))?`/g)].flatMap(([, name]) =>
      name
        .split('.')
        .filter((part) => part !== '' && !words.has(part))
        .map((part) => `${file}: ${name} (${part})`),
    ),
  );
  assert.deepEqual(wrong, []);
});
