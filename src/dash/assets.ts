// The files of the page by name. In a checkout, its modules are TypeScript, whose types are removed when they are
// served; in the package they are JavaScript. uPlot comes from its own package. Only these names are served, so that
// no path can lead to other files.
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

/** Paths by name; '' is the page itself. */
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

/** The file of that name; undefined: there is none. */
export async function asset(name: string): Promise<Asset | undefined> {
  const path = files.get(name);
  if (path === undefined) return undefined;
  const text = await readFile(path, 'utf8');
  return { type: `${TYPES[extension(path)]}; charset=utf-8`, body: path.endsWith('.ts') ? stripped(text) : text };
}

/** Removes types, without Node's warning that this feature is experimental. */
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
