// Bundlers must accept the workers of the browser guide and of examples/browser. By default, Vite builds a worker as a
// classic script, which allows no `await` outside of a function, and in Vite 7 no parts that are loaded later either:
// `dynamoe/whole` has none. Vite finds the worker by `new URL(..., import.meta.url)`.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import * as esbuild from 'esbuild';
import { blocksOf, root } from './blocks.ts';

after(() => esbuild.stop());

const partsOf = (): ReadonlyMap<string, string> =>
  new Map(
    blocksOf('docs/guide/browser.md').flatMap(({ text }) => {
      const name = /^\/\/ (\w+\.ts)\n/.exec(text)?.[1];
      return name === undefined ? [] : [[name, text] as const];
    }),
  );
const guide = partsOf(),
  example = (name: string): string => readFileSync(join(root, 'examples/browser', name), 'utf8');

/**
 * Bundles the source as a classic script; rejects if this is not possible. Returns the modules that the script loads
 * later.
 */
async function classic(contents: string): Promise<string[]> {
  const { metafile } = await esbuild.build({
    stdin: { contents, loader: 'ts', resolveDir: join(root, 'examples/browser') },
    bundle: true,
    format: 'iife',
    platform: 'browser',
    target: 'es2022',
    conditions: ['dynamoe-source'],
    write: false,
    metafile: true,
    logLevel: 'silent',
  });
  return Object.values(metafile.inputs).flatMap(({ imports }) =>
    imports.filter((i) => i.kind === 'dynamic-import').map((i) => i.path),
  );
}

for (const [name, page, worker] of [
  ['the guide', guide.get('page.ts'), guide.get('worker.ts')],
  ['examples/browser', example('page.ts'), example('worker.ts')],
] as const) {
  test(`${name}: the worker can be a classic script, and the page names it so that a bundler finds it`, async () => {
    assert.deepEqual(await classic((worker ?? '').replace("'dynamoe/core'", "'dynamoe/whole'")), []);
    assert.match(page ?? '', /new Worker\(new URL\('\.\/worker\.js', import\.meta\.url\), \{ type: 'module' \}\)/);
    await assert.rejects(classic(`${worker ?? ''}\nawait Promise.resolve();\nexport {};`), /Top-level await/);
  });
}

test('the core loads one part later', async () => {
  assert.deepEqual(await classic(guide.get('worker.ts') ?? ''), ['src/session/extras.ts']);
});
