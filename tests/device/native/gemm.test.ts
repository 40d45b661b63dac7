// The native matrix core gives the bits of the naive loop. Builds gemm_test.c with the system's C compiler, for the
// vectors of this machine and, on x64, for narrower ones.
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const native = join(here, '../../../src/device/native');
const cc = process.env.CC ?? 'cc';
const found = spawnSync(cc, ['--version']).status === 0;
const folder = found ? mkdtempSync(join(tmpdir(), 'dm-gemm-')) : '';
after(() => {
  if (folder) rmSync(folder, { recursive: true, force: true });
});

const flags =
  '-O3 -ffp-contract=off -fno-math-errno -fno-trapping-math -std=gnu11 -pthread -Wall -Wextra -Werror'.split(' ');
const run = (name: string, options: string[], scale: string) => {
  const program = join(folder, name);
  execFileSync(cc, [...flags, ...options, join(native, 'gemm.c'), join(here, 'gemm_test.c'), '-lm', '-o', program], {
    stdio: 'inherit',
  });
  execFileSync(program, [scale], { stdio: ['ignore', 'ignore', 'inherit'] });
};

test('matrix core: the bits of the naive loop', { skip: found ? false : 'no C compiler' }, () =>
  run('native', ['-march=native'], '1'),
);
test(
  'matrix core with vectors of 8 floats',
  { skip: found && process.arch === 'x64' ? false : 'needs a C compiler and x64' },
  () => run('narrow', ['-march=native', '-mno-avx512f'], '1'),
);
test(
  'matrix core with vectors of 4 floats',
  { skip: found && process.arch === 'x64' ? false : 'needs a C compiler and x64' },
  () => run('least', ['-march=x86-64-v2'], '0'),
);
