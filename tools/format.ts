// Formats the sources: Prettier formats every language that it knows, clang-format formats C. `--check` prints the
// files that are not formatted, and fails if there are any; `--write` formats them.
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { format } from '@wasm-fmt/clang-format';

const root = join(import.meta.dirname, '..');
const mode = process.argv[2];
if (mode !== '--check' && mode !== '--write') throw new Error('tools/format.ts --check, or --write');

const prettier = [join(root, 'node_modules/prettier/bin/prettier.cjs'), '--log-level=warn', '--cache', mode, '.'];
let failed = spawnSync(process.execPath, prettier, { cwd: root, stdio: 'inherit' }).status !== 0;

const style = readFileSync(join(root, '.clang-format'), 'utf8');
const folders = [
  'src/device/native',
  'src/device/native/mpi',
  'src/device/cuda',
  'bench/native',
  'tests/device/native',
  'tests/support/cuda',
];
for (const path of folders.flatMap(cFiles)) {
  const text = readFileSync(join(root, path), 'utf8');
  const formatted = settled(text, path);
  if (formatted === text) continue;
  if (mode === '--write') writeFileSync(join(root, path), formatted);
  else {
    console.error(`[warn] ${path}`);
    failed = true;
  }
}
if (failed) {
  console.error('npm run format writes them as they should be');
  process.exitCode = 1;
}

function cFiles(folder: string): string[] {
  const names = readdirSync(join(root, folder));
  return names.filter((name) => /\.(?:[ch]|cuh)$/.test(name)).map((name) => join(folder, name));
}

/** The text after clang-format has been applied until it no longer changes: one run is not always enough. */
function settled(text: string, path: string): string {
  const next = format(text, path, style);
  return next === text ? text : settled(next, path);
}
