// examples/browser in headless Chromium: ten steps of a small mixture of experts in a page's worker give the same bits
// as in Node.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { train, type Trained } from '../../examples/browser/train.ts';
import { compile } from '../../src/node.ts';
import { noCompiler } from '../support/toy.ts';
import { MINUTE, noChromium, openPage } from './chromium.ts';

const folder = join(import.meta.dirname, '../../examples/browser');
const fuses = ({ device }: Trained): boolean => !device.includes('rounds products');
const bits = ({ losses, digest }: Trained): unknown => ({ losses, digest });

for (const isolated of [true, false]) {
  const threads = isolated ? '2 threads' : '1 thread';
  test(
    `a page ${isolated ? 'with' : 'without'} isolation trains ten steps with the same bits as Node`,
    { skip: noChromium, timeout: 2 * MINUTE },
    async (t) => {
      const { page, close } = await openPage(
        await readFile(join(folder, 'index.html'), 'utf8'),
        { 'page.js': 'examples/browser/page.ts', 'worker.js': 'examples/browser/worker.ts' },
        isolated,
      );
      t.after(close);
      await page.waitForFunction(
        () =>
          document.body.dataset['trained'] !== undefined ||
          document.querySelector('#log')?.textContent.includes('failed'),
        null,
        { timeout: MINUTE },
      );
      const shown = await page.locator('#log').textContent();
      assert.doesNotMatch(shown ?? '', /failed/);
      assert.equal(shown?.match(/^step \d+ {2}loss \d\.\d{4}$/gm)?.length, 10);
      const there = JSON.parse(await page.evaluate(() => document.body.dataset['trained'] ?? '')) as Trained;
      assert.match(there.device, new RegExp(`WebAssembly, ${threads}`));
      assert.ok(there.losses[9] < there.losses[0] - 1, `losses ${there.losses.join(' ')}`);
      const here = await train(compile, { device: 'wasm', threads: 2 });
      assert.equal(fuses(there), fuses(here), 'multiply-adds round alike in both engines');
      assert.deepEqual(bits(there), bits(here));
      if (!noCompiler && fuses(here))
        assert.deepEqual(bits(there), bits(await train(compile, { device: 'native', threads: 2 })));
    },
  );
}
