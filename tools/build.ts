// Builds the published files: src/ as JavaScript with types in dist/, with the C sources and the other files of the
// dashboard's page, and the playground in dist/web.
import { spawnSync } from 'node:child_process';
import { cpSync, rmSync } from 'node:fs';
import { buildWeb } from './web.ts';

rmSync('dist', { recursive: true, force: true });
const tsc = ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json'];
if (spawnSync(process.execPath, tsc, { stdio: 'inherit' }).status !== 0) process.exit(1);
// Other kinds of files are not copied; names without a dot are folders.
cpSync('src/device/native', 'dist/device/native', {
  recursive: true,
  filter: (path) => /^[^.]+(\.[ch])?$/.test(path),
});
cpSync('src/device/cuda', 'dist/device/cuda', { recursive: true, filter: (path) => /^[^.]+(\.cuh)?$/.test(path) });
cpSync('src/dash/page', 'dist/dash/page', {
  recursive: true,
  filter: (path) => /^[^.]+(\.(html|css|svg))?$/.test(path),
});
cpSync('src/package.json', 'dist/package.json');
await buildWeb('dist/web');
