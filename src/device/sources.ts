// Hashes of the library's own sources, which are parts of the keys of compiled kernels.
import { hash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));

export const hashOf = (texts: readonly string[]): string => hash('sha256', texts.join('\n'));

/** Computed once: a process may open several devices, and runs the sources that it has loaded. */
export function once<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined;
  return () => (made ??= { value: make() }).value;
}

/** Hash of all sources in these folders of src/. */
export const sourcesHash = (folders: readonly string[]): string =>
  hashOf(
    folders.flatMap((folder) => {
      const path = join(here, '..', folder);
      return readdirSync(path)
        .filter((f) => /(?<!\.d)\.[jt]s$/.test(f))
        .sort()
        .map((f) => readFileSync(join(path, f), 'utf8'));
    }),
  );
