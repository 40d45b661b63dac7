// Compiles and runs driver_test.c and math_test.c with every C compiler that is installed; each line that they print
// becomes a test. Also checks that the elementary functions of float32 become vector code without calls.
import { strict as assert } from 'node:assert';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { C } from '../../../src/emit/c/dialect.ts';
import { defineFunctions } from '../../../src/emit/clike/functions.ts';
import { ELEMENTARY } from '../../../src/kernel/functions.ts';

const here = fileURLToPath(new URL('.', import.meta.url));
const native = fileURLToPath(new URL('../../../src/device/native/', import.meta.url));
const FLAGS = [
  '-O3',
  '-march=native',
  '-ffp-contract=off',
  '-fno-math-errno',
  '-fno-trapping-math',
  '-fwrapv',
  '-std=gnu11',
  '-fPIC',
  '-pthread',
  '-Wall',
  '-Wextra',
  '-Werror',
];
const works = (cc: string): boolean => spawnSync(cc, ['--version']).status === 0;
const compilers = [...new Set([process.env.CC ?? 'cc', 'clang'])].filter(works);
const folder = mkdtempSync(join(tmpdir(), 'dynamoe-driver-'));
after(() => rmSync(folder, { recursive: true, force: true }));
writeFileSync(join(folder, 'functions.h'), defineFunctions(C).join('\n'));

function compile(cc: string, args: readonly string[]): void {
  const { status, stderr } = spawnSync(cc, [...FLAGS, ...args], { encoding: 'utf8' });
  assert.equal(status, 0, stderr);
}

if (!compilers.length) test('native driver and math', { skip: 'no C compiler here' }, () => {});

for (const cc of compilers) {
  const programs: [string, string[], string[], number][] = [
    ['driver', [join(here, 'driver_test.c'), join(native, 'driver.c'), '-ldl'], ['100000'], 22],
    ['math', ['-iquote', folder, join(here, 'math_test.c'), '-lm'], ['4999'], 15],
  ];
  for (const [name, args, params, count] of programs) {
    test(`native ${name} (${cc})`, async (t) => {
      const program = join(folder, `${name}-${cc.replace(/\W/g, '_')}`);
      compile(cc, [...args, '-o', program]);
      const { stdout, status, signal } = spawnSync(program, params, { encoding: 'utf8', timeout: 240_000 });
      const lines = stdout.split('\n').filter((line) => /^(not )?ok /.test(line));
      for (const line of lines)
        await t.test(line.replace(/^(not )?ok /, ''), () => assert.ok(line.startsWith('ok '), line));
      assert.equal(status, 0, `${signal ?? ''} ${stdout}`);
      assert.equal(lines.length, count);
    });
  }

  const vectors =
    process.arch === 'x64' &&
    process.platform === 'linux' &&
    spawnSync(cc, ['-march=native', '-dM', '-E', '-x', 'c', '/dev/null'], { encoding: 'utf8' }).stdout.includes(
      '__FMA__',
    );
  test(
    `float32 functions become vector code (${cc})`,
    { skip: !vectors && 'an x86-64 core with FMA is needed' },
    () => {
      for (const name of ELEMENTARY) {
        const source = join(folder, 'vector.c'),
          assembly = join(folder, 'vector.s');
        writeFileSync(
          source,
          `#include "${join(native, 'math.h')}"\n#include "${join(folder, 'functions.h')}"\n` +
            `void row(float *restrict y, const float *restrict x) { for (int l = 0; l < 16; l++) y[l] = ` +
            `${name}_float32(x[l]); }\n`,
        );
        compile(cc, ['-S', source, '-o', assembly]);
        const text = readFileSync(assembly, 'utf8');
        assert.match(text, /vfn?madd\d+ps/, name);
        assert.doesNotMatch(text, /vfn?madd\d+ss|\bcall\b/, name);
      }
    },
  );
}
