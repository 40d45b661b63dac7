// The whole core as a bundler makes files of it for a page: what is loaded at once, and what is loaded when a program
// first asks for it (src/session/extras.ts).
import { basename } from 'node:path';
import { gzipSync } from 'node:zlib';
import * as esbuild from 'esbuild';

export interface CoreBundle {
  /** By name, the files that are loaded before a program can compile and train: core.js, and what it imports. */
  readonly first: ReadonlyMap<string, Uint8Array>;
  /** The files that an `import()` may load later. */
  readonly later: ReadonlyMap<string, Uint8Array>;
}

/** from: what `dynamoe` is in `folder`, such as 'dynamoe/core'. */
export async function bundleCore(folder: string, from: string, options: esbuild.BuildOptions): Promise<CoreBundle> {
  const { outputFiles = [], metafile } = await esbuild.build({
    ...options,
    stdin: { contents: `export * from '${from}';`, resolveDir: folder, sourcefile: 'core.js' },
    absWorkingDir: folder,
    bundle: true,
    minify: true,
    format: 'esm',
    splitting: true,
    platform: 'browser',
    target: 'es2022',
    entryNames: 'core',
    outdir: 'core',
    write: false,
    metafile: true,
  });
  const outputs = new Map(Object.entries(metafile?.outputs ?? {}).map(([path, output]) => [basename(path), output])),
    first = new Set<string>(),
    visit = (name: string): void => {
      if (first.has(name)) return;
      first.add(name);
      for (const { path, kind } of outputs.get(name)?.imports ?? [])
        if (kind === 'import-statement') visit(basename(path));
    };
  visit('core.js');
  const files = outputFiles.map(({ path, contents }) => [basename(path), contents] as const);
  return {
    first: new Map(files.filter(([name]) => first.has(name))),
    later: new Map(files.filter(([name]) => !first.has(name))),
  };
}

/** Kilobytes of files after gzip, each by itself. */
export const zippedKb = (files: Iterable<Uint8Array>): number =>
  Math.round([...files].reduce((n, bytes) => n + gzipSync(bytes, { level: 9 }).length, 0) / 100) / 10;
