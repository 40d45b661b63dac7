// The conformance suite in headless Chromium, with the same seeds and numbers of random cases as in Node: in a worker
// with two threads if the page is isolated, and, with half of the cases, on the page's own thread if it is not.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { all } from '../conformance/cases/index.ts';
import { families as graphs } from '../conformance/cases/graphs.ts';
import { drawsFromEnv } from '../support/random-cases.ts';
import { title, type Draws } from '../conformance/draws.ts';
import { MINUTE, noChromium, openPage } from './chromium.ts';

interface Functions {
  describe(threads: number): Promise<string | null>;
  check(name: string, draws: Draws): Promise<string | null>;
}

const draws = drawsFromEnv(),
  families = [...all, ...graphs];
const hosts: readonly { name: string; isolated: boolean; entries: Record<string, string>; says: RegExp }[] = [
  {
    name: 'a worker of an isolated page',
    isolated: true,
    entries: { 'page.js': 'tests/browser/page/outer.ts', 'worker.js': 'tests/browser/page/worker.ts' },
    says: /WebAssembly, 2 threads/,
  },
  {
    name: 'a page that is not isolated',
    isolated: false,
    entries: { 'page.js': 'tests/browser/page/inline.ts' },
    says: /WebAssembly, 1 thread/,
  },
];

for (const { name, isolated, entries, says } of hosts) {
  test(`Chromium, ${name}`, { skip: noChromium, timeout: 4 * MINUTE }, async (t) => {
    const { page, version, close } = await openPage(
      '<!doctype html><title>conformance</title><script type="module" src="/page.js"></script>',
      entries,
      isolated,
    );
    t.after(close);
    const description = await page.evaluate(() => (globalThis as unknown as Functions).describe(2));
    t.diagnostic(`Chromium ${version}: ${description}`);
    assert.match(description ?? '', says);
    for (const f of families) {
      await t.test(`${title(f)}: wasm`, { timeout: MINUTE }, async () => {
        const failed = await page.evaluate(([n, d]) => (globalThis as unknown as Functions).check(n, d), [
          title(f),
          isolated ? draws : { ...draws, times: draws.times / 2 },
        ] as const);
        assert.equal(failed, null);
      });
    }
  });
}
