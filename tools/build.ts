// Builds what is published: src/ as JavaScript with types in dist/, and the C sources beside.
import { execFileSync } from 'node:child_process';
import { cpSync, rmSync } from 'node:fs';

rmSync('dist', { recursive: true, force: true });
execFileSync(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json'], { stdio: 'inherit' });
cpSync('src', 'dist', { recursive: true, filter: (path) => !/\.[^./\\]+$/.test(path) || /\.[ch]$/.test(path) });
