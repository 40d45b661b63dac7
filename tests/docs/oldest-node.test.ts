// Code that a reader copies must run on the oldest Node that package.json allows: no example may use syntax that this
// Node cannot parse. docs.test.ts runs the programs of the documents on it.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import * as esbuild from 'esbuild';
import { newSyntax, node22, oldest } from '../support/oldest-node.ts';
import { blocksOf, documents, root } from './blocks.ts';

after(() => esbuild.stop());

/** TypeScript and JavaScript files below `folder`. */
const sources = (folder: string): string[] =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((f) => /\.(ts|mjs)$/.test(f))
    .map((f) => `${folder}/${f.replaceAll('\\', '/')}`)
    .sort();
const read = (file: string): string => readFileSync(join(root, file), 'utf8');

test(`no example of the documents has syntax that Node ${oldest} lacks`, async () => {
  const blocks = documents.flatMap((file) => blocksOf(file)).filter((b) => b.language === 'ts');
  assert.ok(blocks.length > 20);
  assert.deepEqual(await newSyntax(blocks.map(({ at, text }) => ({ file: `${at}.ts`, text }))), []);
});

test('no file of examples/, web/, bin/ and tools/runtime/, and no code in a docstring has such syntax', async () => {
  const files = ['examples', 'web', 'bin', 'tools/runtime', 'tests/package']
    .flatMap(sources)
    .filter((f) => !f.endsWith('.d.ts') && !f.includes('node_modules'));
  const docstrings = sources('src').flatMap((file) =>
    [...read(file).matchAll(/\/\*\*[^]*?\*\//g)].map(([text]) => ({ file, text })),
  );
  assert.ok(files.length > 20 && docstrings.length > 500);
  assert.deepEqual(await newSyntax(files.map((file) => ({ file, text: read(file) }))), []);
  // Code in docstrings is in backticks and often incomplete, so only words that could be a declaration are searched.
  assert.deepEqual(
    docstrings.filter(({ text }) => /`[^`]*\busing\s+\w+\s*=[^`]*`/.test(text)).map(({ file }) => file),
    [],
  );
});

test('this test finds new syntax in all its forms', async () => {
  const found = async (text: string): Promise<string> => (await newSyntax([{ file: 'example.ts', text }])).join('\n');
  for (const text of [
    'await using session = await compile();',
    'async function f() { await using /* a */ s = g(); }',
    '{ using s = g(); }',
    'for (await using s of all) s;',
    'for (using s of all) s;',
    '@decorated class A {}',
    'class A { accessor b = 1; }',
    'import defer * as a from "a";',
    'import source a from "a";',
    ...(node22() === null ? [] : ['const pattern = /(?i:a)b/;', 'const pattern = /(?<a>b)|(?<a>c)/;']),
  ])
    assert.match(await found(text), /^example\.ts: ./, text);
  for (const text of [
    'const s = await compile(); await s.close();',
    'const using = 1; console.log(using);',
    'class A { #b = 1; static { } }',
    'const a: number | null = null;\nconsole.log(a ?? 1, 1_000);',
    'import a from "a.json" with { type: "json" };',
    'for await (const b of all) b;',
    '// await using s = f();',
  ])
    assert.equal(await found(text), '', text);
});
