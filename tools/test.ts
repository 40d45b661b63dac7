// All checks of the project. `check`: types, lint, unused code, structure; `unit [FILE | --FLAG=VALUE]...`: the tests, with
// arguments for node's test runner; neither: all, the tests last. Exit code 1 if any failed.
import { spawnSync } from 'node:child_process';

const [mode = 'all', ...rest] = process.argv.slice(2);
const failed: string[] = [];

function run(name: string, args: string[]): void {
  console.log(`\n== ${name}`);
  const start = performance.now();
  const { status } = spawnSync(process.execPath, args, { stdio: ['ignore', 'inherit', 'inherit'] });
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  if (status !== 0) failed.push(name);
  if (status !== 0 || name !== 'tests') console.log(`== ${name}: ${status === 0 ? 'passed' : 'FAILED'}, ${seconds} s`);
}

if (mode === 'all' || mode === 'check') {
  run('types', ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.json']);
  run('lint', ['node_modules/eslint/bin/eslint.js', '--max-warnings=0', '.']);
  run('unused code', ['node_modules/knip/bin/knip.js', '--no-progress', '--no-config-hints']);
}
if (mode === 'check') run('structure', ['--test', '--test-reporter=dot', 'tests/structure.test.ts']);
if (mode === 'all' || mode === 'unit') {
  // Node wants its flags before the files.
  const flags = rest.filter((arg) => arg.startsWith('-'));
  const files = rest.filter((arg) => !arg.startsWith('-'));
  run('tests', [
    // What hangs fails by name.
    ...['--test', '--test-concurrency=2', '--test-timeout=240000', '--test-reporter=spec', '--conditions=dynamoe-source'],
    ...flags,
    ...(files.length > 0 ? files : ['tests/**/*.test.ts']),
  ]);
}
if (failed.length > 0) {
  console.log(`\nfailed: ${failed.join(', ')}`);
  process.exitCode = 1;
}
