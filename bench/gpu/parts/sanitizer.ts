// NVIDIA's compute-sanitizer on small kernels: accesses outside of memory, races in shared memory, barriers that not
// all threads reach. It must also find an error that was planted (../tiny.ts), or its silence would say nothing.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { check, SMALL, tell } from '../report.ts';

const TINY = join(import.meta.dirname, '..', 'tiny.ts'),
  FOUND = 86; // exit code if it finds an error

/** How the checked process ended, and the last lines that it printed. */
function run(tool: string, ...args: string[]): { readonly status: number | null; readonly text: string } {
  const { status, stdout, stderr } = spawnSync(
    'compute-sanitizer',
    [
      ...['--tool', tool, '--target-processes', 'all', '--error-exitcode', String(FOUND)],
      ...[process.execPath, '--conditions=dynamoe-source', TINY, ...args],
    ],
    { encoding: 'utf8' },
  );
  return { status, text: `${stdout}${stderr}`.trimEnd().split('\n').slice(-8).join('\n') };
}

const there = SMALL
  ? 'a GPU that is only pretended runs nothing that it could check'
  : spawnSync('compute-sanitizer', ['--version']).error?.message;
if (there !== undefined) tell({ skip: 'compute-sanitizer', why: there });
else {
  await check('memcheck finds the planted error', () => {
    const { status, text } = run('memcheck', 'planted');
    if (status !== FOUND) throw new Error(`exit code ${status}: ${text}`);
  });
  for (const tool of ['memcheck', 'racecheck', 'synccheck'])
    await check(`${tool} finds nothing`, () => {
      const { status, text } = run(tool);
      if (status !== 0) throw new Error(`exit code ${status}: ${text}`);
    });
}
