// `import 'dynamoe'` in a config file means this very installation, wherever the file lies: its modules and ours must be the same.
import { registerHooks } from 'node:module';
import { extname } from 'node:path';

const own = (name: string): string => new URL(`../${name}${extname(import.meta.url)}`, import.meta.url).href;

export function serveOwnImports(): void {
  registerHooks({
    resolve(specifier, context, next) {
      const match = /^dynamoe(?:\/([a-z]+))?$/.exec(specifier);
      return match ? { url: own(match[1] ?? 'index'), shortCircuit: true } : next(specifier, context);
    },
  });
}
