// A headless browser and its content: modules bundled by esbuild and served on the loopback interface, with or without
// the headers that isolate a page (threads need shared memory, which needs these headers). `close` ends everything, and
// nothing waits longer than a minute.
import assert from 'node:assert/strict';
import { constants, accessSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import axe from 'axe-core';
import * as esbuild from 'esbuild';
import { chromium, type Browser, type BrowserContextOptions, type Page } from 'playwright-core';

const root = fileURLToPath(new URL('../..', import.meta.url));
/** Time limit of a test: a page that hangs makes its test fail by name. */
export const MINUTE = 60_000;

/** The Chromium of DYNAMOE_CHROMIUM, or the first on the PATH; null without one. */
function findChromium(): string | null {
  const named = process.env['DYNAMOE_CHROMIUM'],
    folders = (process.env['PATH'] ?? '').split(delimiter);
  const paths =
    named === undefined
      ? ['chromium', 'chromium-browser', 'google-chrome'].flatMap((name) => folders.map((f) => join(f, name)))
      : [named];
  return (
    paths.find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    }) ?? null
  );
}

const path = findChromium();
/** A reason to skip tests that need a browser, or false. */
export const noChromium: string | false =
  path === null && 'no Chromium found (chromium, chromium-browser or google-chrome on the PATH, or DYNAMOE_CHROMIUM)';

// The sandbox does not start as root. No external addresses are resolved.
const FLAGS = [
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  ...(process.getuid?.() === 0 ? ['--no-sandbox'] : []),
];
const ISOLATED = { 'cross-origin-opener-policy': 'same-origin', 'cross-origin-embedder-policy': 'require-corp' };

/** Modules by name, each with the file that it imports: { 'page.js': 'tests/browser/page/page.ts' }. */
async function bundle(entries: Readonly<Record<string, string>>): Promise<Map<string, string>> {
  const { outputFiles } = await esbuild.build({
    entryPoints: Object.entries(entries).map(([out, file]) => ({ in: file, out: out.replace(/\.js$/, '') })),
    bundle: true,
    format: 'esm',
    platform: 'browser',
    target: 'es2022',
    conditions: ['dynamoe-source'],
    write: false,
    outdir: '/',
    absWorkingDir: root,
    logLevel: 'silent',
  });
  await esbuild.stop();
  return new Map(outputFiles.map(({ path: file, text }) => [file.replaceAll('\\', '/').split('/').at(-1) ?? '', text]));
}

/** close() kills the browser if it does not end within seconds. */
async function launch(): Promise<Browser> {
  if (path === null) throw new Error(String(noChromium));
  return chromium.launch({ executablePath: path, args: FLAGS, timeout: MINUTE / 2 });
}

/**
 * A browser for pages that are served by others. `faults` contains errors and warnings on the console, exceptions, and
 * failed requests of the pages.
 */
export async function openBrowser(): Promise<{
  open(url: string, options?: BrowserContextOptions): Promise<{ page: Page; faults: string[] }>;
  close(): Promise<void>;
}> {
  const browser = await launch();
  return {
    async open(url, options) {
      const page = await browser.newPage(options),
        faults: string[] = [];
      page.setDefaultTimeout(MINUTE / 2);
      page.on('console', (m) => {
        if (m.type() === 'error' || m.type() === 'warning') faults.push(`${m.type()}: ${m.text()}`);
      });
      page.on('pageerror', (error) => {
        faults.push(error.stack ?? error.message);
      });
      page.on('requestfailed', (r) => {
        if (!r.url().endsWith('/events')) faults.push(`${r.url()}: ${r.failure()?.errorText ?? ''}`);
      });
      await page.goto(url, { timeout: MINUTE / 2 });
      return { page, faults };
    },
    close: () => browser.close(),
  };
}

export interface Opened {
  readonly page: Page;
  readonly version: string;
  close(): Promise<void>;
}

/**
 * Opens `html` in a new browser; the page may load `entries`. Rejects with an error that the page throws while it
 * loads.
 */
export async function openPage(
  html: string,
  entries: Readonly<Record<string, string>>,
  isolated: boolean,
): Promise<Opened> {
  const files = await bundle(entries);
  const server = createServer((request, response) => {
    const name = (request.url ?? '/').slice(1),
      text = name === '' ? html : files.get(name);
    response.writeHead(text === undefined ? 404 : 200, {
      'content-type': name === '' ? 'text/html; charset=utf-8' : 'text/javascript',
      ...(isolated && ISOLATED),
    });
    response.end(text);
  });
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  const shut = (): Promise<void> =>
    new Promise((resolve) => {
      server.close(() => {
        resolve();
      });
      server.closeAllConnections();
    });
  try {
    const browser = await launch();
    try {
      const page = await browser.newPage();
      page.on('pageerror', (error) => {
        console.error(`in the page: ${error.stack ?? error.message}`);
      });
      await page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`, { timeout: MINUTE / 2 });
      return {
        page,
        version: browser.version(),
        close: async () => {
          await browser.close();
          await shut();
        },
      };
    } catch (error) {
      await browser.close();
      throw error;
    }
  } catch (error) {
    await shut();
    throw error;
  }
}

/** Asserts that axe finds no fault of accessibility in the page as it is now. */
export async function accessible(page: Page): Promise<void> {
  await page.evaluate(axe.source);
  const violations = await page.evaluate(async () => {
    const { axe: run } = globalThis as unknown as {
      axe: {
        run(
          what: Document,
          how: object,
        ): Promise<{ violations: { id: string; help: string; nodes: { html: string }[] }[] }>;
      };
    };
    return (
      await run.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice'] })
    ).violations.map(
      (v) =>
        `${v.id}: ${v.help}: ${v.nodes
          .map((n) => n.html)
          .join(' ')
          .slice(0, 300)}`,
    );
  });
  assert.deepEqual(violations, []);
}
