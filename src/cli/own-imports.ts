// How config files are loaded. `import 'dynamoe'` in a config file means this installation, wherever the file is,
// because both must use the same module instances. A .ts file is an ES module, whatever the package.json around it
// says.
import { createRequire, registerHooks } from 'node:module';
import { basename, extname } from 'node:path';

const { exports } = createRequire(import.meta.url)('../../package.json') as {
  exports: Readonly<Record<string, string | { readonly 'dynamoe-source'?: string }>>;
};

/**
 * Files of src/ by the name under which package.json exports them: { 'dynamoe': 'node', 'dynamoe/core': 'index', ...
 * }.
 */
const FILES = new Map<string, string>(
  Object.entries(exports).flatMap(([path, target]) => {
    const source = typeof target === 'string' ? undefined : target['dynamoe-source'];
    return source === undefined ? [] : [[`dynamoe${path.slice(1)}`, basename(source, '.ts')] as const];
  }),
);

const own = (name: string): string => new URL(`../${name}${extname(import.meta.url)}`, import.meta.url).href;

export function serveOwnImports(): void {
  registerHooks({
    resolve(specifier, context, next) {
      const file = FILES.get(specifier);
      if (file !== undefined) return { url: own(file), shortCircuit: true };
      const found = next(specifier, context);
      return found.format === 'commonjs-typescript' ? { ...found, format: 'module-typescript' } : found;
    },
  });
}
