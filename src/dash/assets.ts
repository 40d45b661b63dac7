// The files of the page by name. From a checkout its modules are TypeScript whose types are taken out as they are
// served; in the package they are JavaScript. uPlot comes from its own package. There are no other names, so that no
// path can lead elsewhere.
import { readdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createRequire, stripTypeScriptTypes } from 'node:module';
import { fileURLToPath } from 'node:url';

export interface Asset {
  readonly type: string;
  readonly body: string;
}

const TYPES: Readonly<Record<string, string>> = {
  html: 'text/html',
  css: 'text/css',
  js: 'text/javascript',
  ts: 'text/javascript',
  svg: 'image/svg+xml',
};
const folder = fileURLToPath(new URL('./page/', import.meta.url));
const vendor = createRequire(import.meta.url);

/** '' is the page itself. */
const files: ReadonlyMap<string, string> = new Map([
  ...readdirSync(folder)
    .filter((name) => Object.hasOwn(TYPES, extension(name)) && !name.endsWith('.d.ts'))
    .flatMap((name): [string, string][] => {
      const path = folder + name;
      if (name === 'index.html') return [['', path]];
      return name.endsWith('.ts')
        ? [
            [name, path],
            [name.replace(/ts$/, 'js'), path],
          ]
        : [[name, path]];
    }),
  ['uPlot.js', vendor.resolve('uplot/dist/uPlot.esm.js')],
  ['uPlot.css', vendor.resolve('uplot/dist/uPlot.min.css')],
]);

/** undefined: there is no such file. */
export async function asset(name: string): Promise<Asset | undefined> {
  const path = files.get(name);
  if (path === undefined) return undefined;
  const text = await readFile(path, 'utf8');
  return { type: `${TYPES[extension(path)]}; charset=utf-8`, body: path.endsWith('.ts') ? stripped(text) : text };
}

/** Node warns that this is new; a user of the dashboard has no use for that. */
function stripped(text: string): string {
  const { emitWarning } = process;
  process.emitWarning = () => undefined;
  try {
    return stripTypeScriptTypes(text);
  } finally {
    process.emitWarning = emitWarning;
  }
}

function extension(name: string): string {
  return name.slice(name.lastIndexOf('.') + 1);
}
