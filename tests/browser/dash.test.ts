// The dashboard in headless Chromium: a growing log, marks reached by keyboard, light and dark mode, many steps, and a
// real run.
import assert from 'node:assert/strict';
import { rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import type { Page } from 'playwright-core';
import { openDash } from '../../src/dash/server.ts';
import { start, TINY, writeText } from '../cli/command.ts';
import { doneAt, evalAt, LAYER, planAt, recompileAt, runFolder, startAt, steps } from '../dash/events.ts';
import { temporaryFolder } from '../io/folder.ts';
import { accessible, MINUTE, noChromium, openBrowser } from './chromium.ts';

const options = { skip: noChromium, timeout: 2 * MINUTE } as const;
const browser = noChromium === false ? await openBrowser() : null;
after(() => browser?.close());
const open = (url: string, scheme: 'light' | 'dark' = 'light', width = 1280) =>
  browser!.open(url, { colorScheme: scheme, viewport: { width, height: 900 }, reducedMotion: 'reduce' });

/** The content of canvases: the number of pixels that differ from the background, and a checksum of them. */
const canvasContent = (page: Page, selector: string): Promise<{ ink: number; sum: number }[]> =>
  page.evaluate(
    (s) =>
      [...document.querySelectorAll<HTMLCanvasElement>(s)].map((c) => {
        const copy = new OffscreenCanvas(c.width, c.height).getContext('2d', { willReadFrequently: true })!;
        copy.drawImage(c, 0, 0);
        const { data } = copy.getImageData(0, 0, c.width, c.height);
        let ink = 0,
          sum = 0;
        for (let i = 0; i < data.length; i += 4)
          if (data[i + 3] > 0) {
            ink++;
            sum = (sum * 31 + data[i] + 7 * data[i + 1] + 13 * data[i + 2] + i) % 1_000_003;
          }
        return { ink: ink / (data.length / 4), sum };
      }),
    selector,
  );

const ready = (page: Page): Promise<unknown> =>
  page.waitForFunction(() => document.body.dataset['ready'] === 'yes' && Number(document.body.dataset['drawn']) > 1);
const shows = (page: Page, selector: string, text: string | RegExp): Promise<unknown> =>
  page.locator(selector).filter({ hasText: text }).first().waitFor();

test('a live run is drawn: curves, bands, marks, table, plan, end of the run', options, async (t) => {
  const run = runFolder(await temporaryFolder(t), 'growing', [startAt(), ...steps(1, 60), planAt(1, 1.5)]),
    dash = await openDash({ runs: [{ name: 'growing', folder: run.folder }] });
  t.after(() => dash.close());
  const { page, faults } = await open(dash.url);
  await ready(page);
  await shows(page, '#status', 'running, step 60 of 400');
  const [loss] = await canvasContent(page, '#curves canvas'),
    [heat] = await canvasContent(page, '.heat canvas');
  assert.ok(loss.ink > 0.005 && heat.ink > 0.3, JSON.stringify({ loss, heat }));
  assert.equal(await page.locator('.mark').count(), 0);

  run.add(recompileAt(61, true, 'spilled 16 choices <b>here</b>'), ...steps(61, 90), planAt(62, 2.5), evalAt(90));
  await shows(page, '#status', 'step 90 of 400');
  const [more] = await canvasContent(page, '#curves canvas'),
    [hotter] = await canvasContent(page, '.heat canvas');
  assert.notEqual(more.sum, loss.sum);
  assert.notEqual(hotter.sum, heat.sum);
  await shows(page, '.card .sub', 'capacity 2.5, spill, padded');
  await shows(page, '#tiles', '2.500');

  // The keyboard reaches the mark, and the text for it is shown and announced.
  const mark = page.getByRole('button', {
    name: /Recompilation 1 at step 61: adaptCapacity, kept: 20% faster\. Reason: spilled 16 choices/,
  });
  await mark.focus();
  const tip = page.getByRole('tooltip');
  const inOrder = [
    /1\. adaptCapacity, kept: 20% faster/,
    /spilled 16 choices <b>here<\/b>/,
    /decided before 59, in effect from 61/,
    /capacity: 1\.5 → 2\.5/,
    /12\.0 ms a step, 1\.05 MB/,
    /10\.0 ms a step, 524 kB/,
  ];
  assert.match(await tip.innerText(), new RegExp(inOrder.map(({ source }) => source).join('[^]*')));
  assert.equal(
    await page.locator('#tip b').count(),
    1,
    'markup in a log is shown as text: only the changed knob is bold',
  );
  await page.keyboard.press('Escape');
  assert.equal(await tip.isVisible(), false);
  await page.locator('#curves .mark').nth(1).hover();
  await tip.waitFor();
  await mark.click();
  assert.match(
    await page.locator('#decisions tr.chosen').innerText(),
    /adaptCapacity \(results unchanged\)[\s\S]*kept: 20% faster/,
  );
  run.add(recompileAt(93, false), ...steps(91, 95));
  await shows(page, '#decisions', /undone/);
  await shows(page, '#spoken', 'Recompilation by adaptCapacity: undone');

  // The bands by keyboard, and as a table.
  await page.locator('.heat').focus();
  await page.keyboard.press('ArrowRight');
  await shows(page, '.readout', 'step 95, expert 0: 40 choices, 2.50 times the even share; capacity 40');
  await page.getByText('Loads as a table').click();
  await page.locator('#layers tbody tr').first().waitFor();
  assert.deepEqual((await page.locator('#layers tbody tr').first().locator('th, td').allInnerTexts()).slice(0, 5), [
    '0',
    '40',
    '2.50',
    '40',
    '0',
  ]);

  const [arena, times] = await canvasContent(page, '.arena canvas, .times canvas');
  assert.ok(arena.ink > 0.3 && times.ink > 0.9, JSON.stringify({ arena, times }));
  await shows(page, '.times table', `${LAYER.replace('0', '*')}.experts: matmul`);
  await accessible(page);
  run.add(doneAt(95));
  await shows(page, '#status', 'done in 9 s');
  await dash.close();
  await page.waitForFunction(() => document.body.dataset['connection'] === 'ended');
  await shows(page, '#status', 'done in 9 s');
  assert.deepEqual(faults, []);
});

for (const scheme of ['light', 'dark'] as const) {
  for (const width of [1280, 800, 400]) {
    test(
      `${scheme}, ${width} wide: the page has the colours of the scheme, fits, and axe finds no fault`,
      options,
      async (t) => {
        const { folder } = runFolder(await temporaryFolder(t), 'a', [
            startAt(),
            ...steps(1, 200),
            planAt(1, 1.5),
            recompileAt(80, true),
            recompileAt(150, false),
            evalAt(200),
            doneAt(200),
          ]),
          dash = await openDash({ runs: [{ name: 'a', folder }] });
        t.after(() => dash.close());
        const { page, faults } = await open(dash.url, scheme, width);
        await ready(page);
        const dark = await page.evaluate(() => {
          const [r] = /\d+/.exec(getComputedStyle(document.body).backgroundColor) ?? [];
          return Number(r) < 60;
        });
        assert.equal(dark, scheme === 'dark');
        assert.equal(
          await page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth),
          true,
          'no element is wider than the window',
        );
        assert.ok((await canvasContent(page, '#curves canvas')).every((c) => c.ink > 0.003));
        await accessible(page);
        // The reader's system changes its colour scheme while the page is open.
        const [before] = await canvasContent(page, '#curves canvas');
        await page.emulateMedia({ colorScheme: scheme === 'dark' ? 'light' : 'dark' });
        // The first drawing after it may be one that was due before.
        let [after] = await canvasContent(page, '#curves canvas');
        for (let tries = 0; after.sum === before.sum && tries < 600; tries++) {
          await page.waitForTimeout(50);
          [after] = await canvasContent(page, '#curves canvas');
        }
        assert.notEqual(after.sum, before.sum);
        assert.deepEqual(faults, []);
      },
    );
  }
}

test(
  'two runs are compared in one chart; a selector shows the layers of one; reloading keeps the view',
  options,
  async (t) => {
    const parent = await temporaryFolder(t),
      a = runFolder(parent, 'a', [startAt(), ...steps(1, 100), planAt(1, 1.5), doneAt(100)]),
      b = runFolder(parent, 'b', [startAt(), ...steps(1, 50), planAt(1, 1.5), recompileAt(30, true)]);
    const dash = await openDash({ runs: [a, b].map(({ folder }, i) => ({ name: 'ab'[i], folder })), auth: false });
    t.after(() => dash.close());
    const { page, faults } = await open(dash.url);
    await ready(page);
    for (const label of ['a training', 'b training']) await shows(page, '#curves .u-legend', label);
    assert.equal(await page.locator('.mark').count(), 0);
    await page.locator('#run').selectOption('b');
    await page.locator('.mark').first().waitFor();
    await shows(page, '#status', 'running, step 50 of 400');
    await page.getByLabel('Axis').selectOption('seconds of training');
    await page.getByLabel('Window').selectOption('last 100 steps');
    await page.reload();
    await ready(page);
    await shows(page, '#status', 'done in 9 s, step 100 of 400');
    assert.deepEqual(faults, []);
  },
);

test('40,000 steps of 64 experts are drawn, zoomed and redrawn without long tasks', options, async (t) => {
  const many = steps(1, 40_000).map((e) => ({
    ...e,
    load: { [LAYER]: Array.from({ length: 64 }, (_, i) => i + ('step' in e ? e.step % 7 : 0)) },
  }));
  const run = runFolder(await temporaryFolder(t), 'long', [startAt(0, 0, 50_000), ...many, planAt(1, 1.5)]),
    dash = await openDash({ runs: [{ name: 'long', folder: run.folder }] });
  t.after(() => dash.close());
  const { page, faults } = await open(dash.url);
  await shows(page, '#status', 'step 40000 of 50000');
  await page.evaluate(() => {
    Object.assign(globalThis, { slow: [] });
    new PerformanceObserver((list) => {
      (globalThis as unknown as { slow: number[] }).slow.push(...list.getEntries().map((e) => e.duration));
    }).observe({ entryTypes: ['longtask'] });
  });
  for (let i = 0; i < 10; i++) {
    run.add(
      ...steps(40_001 + i, 40_001 + i).map((e) => ({
        ...e,
        load: { [LAYER]: Array.from({ length: 64 }, (_, x) => x) },
      })),
    );
    await shows(page, '#status', `step ${40_001 + i} of`);
  }
  const over = page.locator('#curves .u-over').first(),
    box = (await over.boundingBox())!;
  await page.mouse.move(box.x + box.width * 0.4, box.y + 80);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * 0.5, box.y + 90, { steps: 4 });
  await page.mouse.up();
  await page.waitForFunction(() => document.querySelector<HTMLSelectElement>('#window')?.value === 'zoom');
  await over.dblclick();
  await page.waitForFunction(() => document.querySelector<HTMLSelectElement>('#window')?.value === 'all');
  const slow = await page.evaluate(() => (globalThis as unknown as { slow: number[] }).slow);
  t.diagnostic(`tasks longer than 50 ms: ${slow.map((ms) => ms.toFixed(0)).join(' ') || 'none'}`);
  assert.deepEqual(faults, []);
});

test(
  'a real run: dynamoe train --dash prints a URL whose page shows experts and a recompilation, and closes with it',
  options,
  async (t) => {
    const folder = await temporaryFolder(t),
      data = await writeText(folder),
      config = join(folder, 'config.json');
    await writeFile(
      config,
      JSON.stringify({
        model: { moe: { capacity: 3, overflow: 'spill', dispatch: 'padded' } },
        steps: 100_000,
        evalEvery: 0,
      }),
    );
    const run = start(
      'train',
      config,
      ...TINY,
      '--data',
      data,
      '--out',
      join(folder, 'run'),
      '--dash',
      '--tensorboard',
    );
    t.after(() => {
      run.child.kill('SIGKILL');
    });
    const url = await new Promise<string>((resolve, reject) => {
      let text = '';
      run.child.stderr?.on('data', (more: string) => {
        text += more;
        const [found] = /http:\/\/127\.0\.0\.1:\d+\/[\w-]+\//.exec(text) ?? [];
        if (found) resolve(found);
      });
      void run.ended.then(({ stderr }) => {
        reject(new Error(stderr));
      });
    });
    const { page, faults } = await open(url);
    await shows(page, '#status', /running, step \d+ of 100000/);
    await page.locator('.heat').first().waitFor();
    // The decision comes at step 18 on any machine: three times the even share is more than any expert needs.
    await page.locator('#decisions tbody tr').filter({ hasText: 'adaptCapacity' }).first().waitFor({ timeout: MINUTE });
    await page.getByRole('button', { name: /Recompilation 1 at step \d+: adaptCapacity/ }).focus();
    assert.match(
      await page.getByRole('tooltip').innerText(),
      /reason\s+experts have (?:more|less) room than they need: .*choices? .* in step \d+/,
    );
    run.child.kill('SIGINT');
    assert.equal((await run.ended).code, 130);
    await shows(page, '#status', 'stopped; it can be continued');
    assert.deepEqual(faults, []);
  },
);

test(
  'a tooltip follows its mark and disappears with it; axis labels are not cut; a deleted run folder is reported',
  options,
  async (t) => {
    const name = 'a "run" <b>%#?é',
      parent = await temporaryFolder(t);
    const run = runFolder(parent, 'run', [
        startAt(0, 0, 12000),
        ...steps(1, 60),
        planAt(1, 1.5),
        recompileAt(61, true),
        ...steps(61, 12000),
      ]),
      dash = await openDash({ runs: [{ name, folder: run.folder }] });
    t.after(() => dash.close());
    for (const [scheme, width] of [
      ['light', 1280],
      ['dark', 390],
    ] as const) {
      const { page } = await open(dash.url, scheme, width);
      await ready(page);
      await shows(page, '#name', name);
      await shows(page, '#status', 'running, step 12000 of 12000');
      // The last label ends before the right edge of the plot: no part of it is cut off.
      const cut = await page.evaluate(() =>
        [...document.querySelectorAll<HTMLCanvasElement>('#curves canvas')].map((c) => {
          const { data } = c
            .getContext('2d')!
            .getImageData(c.width - 1, Math.round(c.height * 0.8), 1, Math.round(c.height * 0.2));
          return data.some((value, i) => i % 4 === 3 && value > 0);
        }),
      );
      assert.deepEqual([cut.length > 0, cut.includes(true)], [true, false]);
      const mark = page.locator('#curves .mark').first(),
        tip = page.locator('#tip');
      await mark.scrollIntoViewIfNeeded();
      await mark.focus();
      await tip.waitFor();
      const beside = (): Promise<unknown> =>
        page.waitForFunction(() => {
          const [own, at] = ['#tip', '#curves .mark'].map((s) => document.querySelector(s)!.getBoundingClientRect());
          return Math.min(Math.abs(own.top - at.bottom - 8), Math.abs(at.top - own.bottom - 8)) < 1;
        });
      await beside();
      await page.evaluate(() => {
        scrollBy(0, 40);
      });
      await beside();
      await page.evaluate(() => {
        scrollBy(0, 4000);
      });
      await tip.waitFor({ state: 'hidden' });
      await page.close();
    }
    const { page } = await open(dash.url);
    await ready(page);
    assert.equal(await page.locator('#dot').getAttribute('class'), 'running');
    await rename(run.folder, join(parent, 'elsewhere'));
    await shows(page, '#status', 'its folder is gone; this is what was read before');
    assert.equal(await page.locator('#dot').getAttribute('class'), 'failed');
    await rename(join(parent, 'elsewhere'), run.folder);
    await shows(page, '#status', 'running, step 12000');
    await dash.close();
    await shows(page, '#status', 'the server of this page has ended');
    assert.equal(await page.locator('#dot').getAttribute('class'), 'waiting');
    await page.close();
  },
);
