// Runs the checks of the project. The first argument says which:
// - `check`: types, format, lint, unused code, structure;
// - `unit [FILE | --FLAG=VALUE]...`: the tests, with arguments for Node's test runner;
// - `full`: everything, with the tests that are too long for every change;
// - without an argument: `check`, then the tests.
// The exit code is 1 if any of them failed.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';

const [mode = 'all', ...rest] = process.argv.slice(2);
const failed: string[] = [];

/** The environment of the tests. With the compile cache, a process starts in half the time. */
const env: NodeJS.ProcessEnv = {
  ...process.env,
  NODE_COMPILE_CACHE:
    process.env['NODE_COMPILE_CACHE'] ?? join(import.meta.dirname, '..', 'node_modules', '.cache', 'dynamoe'),
  // Tests that are too long for every change run only with DYNAMOE_FULL; random cases are drawn 4 times as often.
  ...(mode === 'full' && {
    DYNAMOE_FULL: '1',
    DYNAMOE_TEST_RUNS: '4',
    DYNAMOE_TEST_SEED: process.env['DYNAMOE_TEST_SEED'] ?? 'random',
  }),
};

function run(name: string, args: string[]): void {
  console.log(`\n== ${name}`);
  const start = performance.now();
  const { status } = spawnSync(process.execPath, args, { stdio: ['ignore', 'inherit', 'inherit'], env });
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  if (status !== 0) failed.push(name);
  if (status !== 0 || name !== 'tests') console.log(`== ${name}: ${status === 0 ? 'passed' : 'FAILED'}, ${seconds} s`);
}

const everything = mode === 'all' || mode === 'full';

if (everything || mode === 'check') {
  run('types', ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.json']);
  run('format', ['tools/format.ts', '--check']);
  run('lint', ['node_modules/eslint/bin/eslint.js', '--max-warnings=0', '.']);
  run('unused code', ['node_modules/knip/bin/knip.js', '--no-progress', '--no-config-hints']);
}
if (mode === 'check') run('structure', ['--test', '--test-reporter=dot', 'tests/structure.test.ts']);
if (everything || mode === 'unit') {
  // Node needs its flags before the files.
  const flags = rest.filter((arg) => arg.startsWith('-'));
  const files = rest.filter((arg) => !arg.startsWith('-'));
  run('tests', [
    // A test that hangs fails with its name.
    ...[
      '--test',
      '--test-concurrency=2',
      `--test-timeout=${mode === 'full' ? 1_800_000 : 240_000}`,
      '--test-reporter=spec',
      '--conditions=dynamoe-source',
      '--import=./tests/support/random-cases.ts',
    ],
    ...flags,
    ...(files.length > 0 ? files : ['tests/**/*.test.ts']),
  ]);
}
if (failed.length > 0) {
  console.log(`\nfailed: ${failed.join(', ')}`);
  process.exitCode = 1;
}
