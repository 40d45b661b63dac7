// Builds the playground as files for any static server: `npm run web` builds them from web/ into dist/web, prints their
// sizes and serves them on this machine. With `--build`, it does not serve.
import { copyFile, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { createRequire } from 'node:module';
import type { AddressInfo } from 'node:net';
import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as esbuild from 'esbuild';
import { bundleCore, zippedKb } from './core-bundle.ts';

const root = fileURLToPath(new URL('..', import.meta.url)),
  vendor = createRequire(import.meta.url);
const page = (name: string): string => join(root, 'src/dash/page', name);
const common: esbuild.BuildOptions = {
  bundle: true,
  minify: true,
  format: 'esm',
  platform: 'browser',
  target: 'es2022',
  conditions: ['dynamoe-source'],
  absWorkingDir: root,
  logLevel: 'warning',
};

/** Kilobytes after gzip, by file, and for the whole core alone: what is loaded at once, and later. */
export async function buildWeb(folder: string): Promise<Record<string, number>> {
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  await esbuild.build({
    ...common,
    entryPoints: [
      { in: 'web/page.ts', out: 'page' },
      { in: 'web/worker.ts', out: 'worker' },
      { in: vendor.resolve('uplot/dist/uPlot.esm.js'), out: 'uPlot' },
    ],
    outdir: folder,
  });
  const core = await bundleCore(root, 'dynamoe/core', { conditions: ['dynamoe-source'] });
  await esbuild.stop();
  await writeFile(
    join(folder, 'style.css'),
    `${await readFile(page('style.css'), 'utf8')}\n${await readFile(join(root, 'web/web.css'), 'utf8')}`,
  );
  for (const [name, from] of Object.entries({
    'index.html': join(root, 'web/index.html'),
    'icon.svg': page('icon.svg'),
    'uPlot.css': vendor.resolve('uplot/dist/uPlot.min.css'),
  }))
    await copyFile(from, join(folder, name));
  const sizes = await Promise.all(
    ['worker.js', 'page.js', 'uPlot.js', 'style.css', 'index.html'].map(
      async (name) => [name, zippedKb([await readFile(join(folder, name))])] as const,
    ),
  );
  return {
    ...Object.fromEntries(sizes),
    core: zippedKb(core.first.values()),
    later: zippedKb(core.later.values()),
  };
}

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.svg': 'image/svg+xml',
};

/** Serves the files of the folder. isolated: sends the headers that allow a page shared memory and threads. */
export async function serveWeb(
  folder: string,
  { port = 0, isolated = true } = {},
): Promise<{ server: Server; url: string }> {
  const headers = isolated
    ? { 'cross-origin-opener-policy': 'same-origin', 'cross-origin-embedder-policy': 'require-corp' }
    : {};
  const server = createServer((request, response) => {
    const name = new URL(request.url ?? '/', 'http://localhost').pathname.slice(1) || 'index.html',
      type = TYPES[extname(name)] as string | undefined;
    if (!/^[\w-]+\.\w+$/.test(name) || !type) {
      response.writeHead(404).end();
      return;
    }
    readFile(join(folder, name)).then(
      (bytes) => {
        response.writeHead(200, { 'content-type': type, 'cache-control': 'no-store', ...headers }).end(bytes);
      },
      () => {
        response.writeHead(404).end();
      },
    );
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', resolve);
  });
  return { server, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/` };
}

const NAMES: Readonly<Record<string, string>> = {
  core: 'all of dynamoe/core by itself',
  later: 'of it, loaded when asked for',
};

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const folder = join(root, 'dist/web'),
    sizes = await buildWeb(folder);
  console.log(
    `dist/web, in kB after gzip: ${Object.entries(sizes)
      .map(([name, kb]) => `${NAMES[name] ?? name} ${kb}`)
      .join(', ')}`,
  );
  if (!process.argv.includes('--build')) {
    // Port 6700, or any other port if it is in use.
    const { url } = await serveWeb(folder, { port: 6700 }).catch(() => serveWeb(folder));
    console.log(`The playground: ${url} (Ctrl-C ends it)`);
  }
}
