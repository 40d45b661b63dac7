// An elementwise op, its gradient and its tests need one new file and one row in a table. This test adds such an op to
// a copy of the sources.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cp, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { emit1, type Tensor } from '../../src/graph/tensor.ts';
import { temporaryFolder } from '../io/folder.ts';

const root = join(import.meta.dirname, '..', '..');
const TABLE = 'src/graph/ops/elementwise/index.ts';
const FILE = 'src/graph/ops/elementwise/softsign.ts';

/** The file of the op a / (1 + |a|). Its gradient is multiplied by `factor`; 1 is right. */
const source = (factor: number): string => `
import { emit1, scalar } from '../../tensor.ts';
import { unary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    softsign: NoAttrs;
  }
}

/** a / (1 + |a|). */
export const softsign = unary({
  name: 'softsign',
  takes: 'floats',
  smooth: { kinks: [0] },
  grad: ({ inputs: [a] }, dout) => {
    const below = emit1('add', [emit1('abs', [a]), scalar(a, 1)]);
    return [emit1('mul', [scalar(a, ${factor}), emit1('div', [dout, emit1('mul', [below, below])])])];
  },
  expr: (e, [a], dtype) => e.op('div', [a, e.op('add', [e.op('abs', [a]), e.const(1, dtype)])]),
  value: ([a]) => a / (1 + Math.abs(a)),
});
`;

/** The text of every file in the folder's src, by path. */
async function filesOf(folder: string): Promise<Map<string, string>> {
  const names = await readdir(join(folder, 'src'), { recursive: true, withFileTypes: true });
  const paths = names.filter((e) => e.isFile()).map((e) => join(e.parentPath, e.name).slice(folder.length + 1));
  return new Map(
    await Promise.all(paths.map(async (path) => [path, await readFile(join(folder, path), 'utf8')] as const)),
  );
}

test('adding an elementwise op with gradient and tests takes one file and one row', { timeout: 200_000 }, async (t) => {
  const copy = await temporaryFolder(t);
  for (const name of ['src', 'bin', 'tests', 'package.json', 'tsconfig.json']) {
    await cp(join(root, name), join(copy, name), { recursive: true });
  }
  await symlink(join(root, 'node_modules'), join(copy, 'node_modules'));
  const rows = await readFile(join(copy, TABLE), 'utf8');
  await writeFile(join(copy, TABLE), `${rows}export { softsign } from './softsign.ts';\n`);
  await writeFile(join(copy, FILE), source(1));

  const [before, after] = [await filesOf(root), await filesOf(copy)];
  const changed = [...after].filter(([path, text]) => before.get(path) !== text).map(([path]) => path);
  assert.deepEqual(changed.sort(), [TABLE, FILE].sort());
  const lines = (text = ''): number => text.split('\n').length;
  assert.equal(lines(after.get(TABLE)) - lines(before.get(TABLE)), 1, 'one row');

  const check = (): { status: number | null; stdout: string } => {
    const files = ['conformance/elementwise', 'conformance/twice', 'conformance/table', 'options'].map(
      (name) => `tests/${name}.test.ts`,
    );
    const flags = [
      '--test',
      '--test-reporter=tap',
      '--conditions=dynamoe-source',
      '--test-name-pattern=^softsign|every op has cases|every export refuses',
    ];
    const { NODE_TEST_CONTEXT: _, ...env } = process.env;
    return spawnSync(process.execPath, [...flags, ...files], { cwd: copy, encoding: 'utf8', env });
  };
  const { status, stdout } = check();
  const passed = [...stdout.matchAll(/^ok \d+ - (softsign[^#\n]*)/gm)].map(([, title]) => title.trim());
  assert.equal(status, 0, stdout);
  assert.deepEqual(passed.sort(), [
    'softsign: devices agree with the reference, and with each other in every bit',
    'softsign: gradients',
    'softsign: gradients of gradients',
  ]);
  await writeFile(join(copy, FILE), source(2));
  const wrong = check();
  assert.equal(wrong.status, 1, 'the tests find a wrong gradient');
  assert.match(wrong.stdout, /^not ok \d+ - softsign: gradients/m);
});

test('TypeScript checks the names of ops and their attributes', () => {
  const misspelt = (x: Tensor): readonly Tensor[] => [
    // @ts-expect-error no op has this name
    emit1('tahn', [x]),
    // @ts-expect-error pow needs its power
    emit1('pow', [x]),
    // @ts-expect-error the power of pow is a number
    emit1('pow', [x], { p: '3' }),
  ];
  assert.equal(typeof misspelt, 'function');
});
