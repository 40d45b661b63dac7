// How config files are loaded. `import 'dynamoe'` in one means this very installation, wherever the file lies: its modules and ours
// must be the same. A .ts file is an ES module, whatever the package around it says.
import { registerHooks } from 'node:module';
import { extname } from 'node:path';

/** Files of src/ by the names that package.json exports them under. */
const FILES: Readonly<Record<string, string>> = { '': 'node', core: 'index', node: 'node', data: 'data' };

const own = (name: string): string => new URL(`../${name}${extname(import.meta.url)}`, import.meta.url).href;

export function serveOwnImports(): void {
  registerHooks({
    resolve(specifier, context, next) {
      const match = /^dynamoe(?:\/([a-z]+))?$/.exec(specifier);
      const file = match && FILES[match[1] ?? ''];
      if (file) return { url: own(file), shortCircuit: true };
      const found = next(specifier, context);
      return found.format === 'commonjs-typescript' ? { ...found, format: 'module-typescript' } : found;
    },
  });
}
