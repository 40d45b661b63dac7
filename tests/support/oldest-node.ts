// The oldest Node that package.json allows: which syntax it cannot parse, and where it is installed.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as esbuild from 'esbuild';

const root = fileURLToPath(new URL('../..', import.meta.url));
const { engines } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { engines: { node: string } };
/** '22.18' */
export const oldest = engines.node.replace(/^>=/, '');

export interface Source {
  readonly file: string;
  readonly text: string;
}

/**
 * For each source (TypeScript or JavaScript) with syntax that the oldest Node lacks, returns one line with the file's
 * name and the problem. esbuild rewrites syntax that a target cannot parse, so the output for such a source differs
 * from the output for the newest target. If a Node 22 is installed, it also parses every source, and finds new syntax
 * that esbuild does not know (flags within a regular expression).
 */
export async function newSyntax(sources: readonly Source[]): Promise<string[]> {
  const stripped: Source[] = [],
    found: string[] = [];
  for (const { file, text } of sources) {
    try {
      const to = async (target: string): Promise<string> =>
        (
          await esbuild.transform(text, {
            loader: /\.m?js$/.test(file) ? 'js' : 'ts',
            target,
            tsconfigRaw: '{}',
            logLevel: 'silent',
          })
        ).code;
      const newest = await to('esnext'),
        old = await to(`node${oldest}`),
        lines = old.split('\n');
      if (newest === old) stripped.push({ file, text: newest });
      else found.push(`${file}: ${newest.split('\n').find((line, i) => line !== lines[i]) ?? ''}`);
    } catch (error) {
      found.push(`${file}: ${String(error)}`);
    }
  }
  const node = node22();
  return node === null ? found : [...found, ...parsedBy(node, stripped)];
}

/** The script for that Node: it reads sources as JSON from stdin, and writes errors as JSON. */
const PARSE = `const vm = require('node:vm'), found = [];
for (const { file, text } of JSON.parse(require('node:fs').readFileSync(0, 'utf8'))) {
  try { new vm.SourceTextModule(text.replace(/^#!.*/, '')); } catch (error) { found.push(file + ': ' + error.message); }
}
console.log(JSON.stringify(found));`;

function parsedBy(node: string, sources: readonly Source[]): string[] {
  const { stdout, stderr } = spawnSync(node, ['--no-warnings', '--experimental-vm-modules', '-e', PARSE], {
    input: JSON.stringify(sources),
    encoding: 'utf8',
    maxBuffer: 1 << 26,
  });
  if (stdout === '') throw new Error(stderr);
  return JSON.parse(stdout) as string[];
}

/** The Node 22 that npm installed for this platform; null if there is none. */
export function node22(): string | null {
  try {
    const path = createRequire(join(root, 'tools/runtime/package.json')).resolve(
      `node22-${process.platform}-${process.arch}/bin/node`,
    );
    return existsSync(path) ? path : null;
  } catch {
    return null;
  }
}
