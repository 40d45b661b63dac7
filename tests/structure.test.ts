// Tests the rules of the source tree: the order of imports, no cycles, small files, short lines.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, relative, sep } from 'node:path';
import { test } from 'node:test';
import ts from 'typescript';

// The folders of src/ from bottom to top. A folder imports from itself and from folders before it in this list,
// whichever group they are in. `pipeline.ts` is a file; `*.ts` are the other files directly in src/, the entry points
// that package.json exports.
const storeys = [
  ['base', 'kernel', 'graph', 'trace', 'grad'],
  ['nn', 'optim'],
  ['passes', 'lower', 'plan', 'schedule', 'emit'],
  ['io', 'device', 'run', 'pipeline.ts'],
  ['observe', 'recompile'],
  ['session', 'data', 'train'],
  ['*.ts'],
  ['bench', 'dash', 'cli'],
];
const order = storeys.flat();

const src = join(import.meta.dirname, '..', 'src');
const paths = readdirSync(src, { recursive: true, encoding: 'utf8' }).filter((path) =>
  statSync(join(src, path)).isFile(),
);
const files = paths.map((path) => path.replaceAll(sep, '/')).sort();
const imports = new Map(files.filter((file) => file.endsWith('.ts')).map((file) => [file, importsOf(file)]));

/** The files of src/ that a file imports, including imports of types. */
function importsOf(file: string): string[] {
  const { importedFiles } = ts.preProcessFile(readFileSync(join(src, file), 'utf8'), true, true);
  const local = importedFiles.filter(({ fileName }) => fileName.startsWith('.'));
  return local.map(({ fileName }) => relative(src, join(src, dirname(file), fileName)).replaceAll(sep, '/'));
}

function room(file: string): string {
  const [first = '', ...rest] = file.split('/');
  return rest.length > 0 || first === 'pipeline.ts' ? first : '*.ts';
}

test('every folder of src has its place', () => {
  const strangers = new Set(files.map(room).filter((name) => !order.includes(name)));
  assert.deepEqual([...strangers], [], 'add it to `storeys` here and to the table in docs/architecture/README.md');
});

test('a folder imports only from those below it', () => {
  const wrong: string[] = [];
  for (const [file, targets] of imports) {
    for (const target of targets) {
      if (target.startsWith('..')) continue; // package.json, for its version
      if (order.indexOf(room(target)) > order.indexOf(room(file))) wrong.push(`${file} imports ${target}`);
    }
  }
  assert.deepEqual(wrong, []);
});

/** The files that an entry point loads, and what they import from outside src. */
function reached(entry: string): { readonly files: ReadonlySet<string>; readonly outside: readonly string[] } {
  const seen = new Set<string>(),
    outside: string[] = [],
    open = [entry];
  for (let file = open.pop(); file !== undefined; file = open.pop()) {
    if (seen.has(file)) continue;
    seen.add(file);
    for (const name of valueImports(file)) {
      if (name.startsWith('.')) open.push(relative(src, join(src, dirname(file), name)).replaceAll(sep, '/'));
      else outside.push(`${file} imports ${name}`);
    }
  }
  return { files: seen, outside };
}

test('the core and dynamoe/layers reach nothing of Node', () => {
  const core = reached('index.ts');
  assert.ok(
    core.files.has('session/session.ts') && core.files.has('device/wasm/wasm.ts'),
    'the walk found the session and its device',
  );
  assert.deepEqual([...core.outside, ...reached('layers.ts').outside], [], 'a bundle for the browser would need it');
});

test('the core contains nothing that dynamoe/layers exports', () => {
  const { files: core } = reached('index.ts'),
    exported = valueImports('layers.ts').map((name) => name.replace(/^\.\//, ''));
  assert.ok(exported.includes('graph/ops/matmul/einsum.ts'));
  assert.deepEqual(
    exported.filter((file) => core.has(file)),
    [],
  );
});

/** The modules that a file imports at run time: imports of types alone are erased, dynamic imports count. */
function valueImports(file: string): string[] {
  const { outputText } = ts.transpileModule(readFileSync(join(src, file), 'utf8'), {
    compilerOptions: { target: ts.ScriptTarget.ESNext, module: ts.ModuleKind.ESNext, verbatimModuleSyntax: true },
  });
  return ts.preProcessFile(outputText, true, true).importedFiles.map(({ fileName }) => fileName);
}

test('the library does not import itself by its name', () => {
  const wrong = [...imports.keys()].filter((file) => {
    const { importedFiles } = ts.preProcessFile(readFileSync(join(src, file), 'utf8'), true, true);
    return importedFiles.some(({ fileName }) => /^dynamoe(\/|$)/.test(fileName) && fileName !== 'dynamoe/package.json');
  });
  assert.deepEqual(wrong, [], 'it would hide an import from the order and from the search for cycles');
});

test('no import cycles, types included', () => {
  const state = new Map<string, 'open' | 'done'>();
  const cycles: string[] = [];
  const visit = (file: string, trail: string[]): void => {
    if (state.get(file) === 'open') cycles.push([...trail.slice(trail.indexOf(file)), file].join(' -> '));
    if (state.has(file)) return;
    state.set(file, 'open');
    for (const target of imports.get(file) ?? []) visit(target, [...trail, file]);
    state.set(file, 'done');
  };
  for (const file of imports.keys()) visit(file, []);
  assert.deepEqual(cycles, []);
});

test('files are small', () => {
  const sizes = files
    .map((file) => ({ file, bytes: statSync(join(src, file)).size }))
    .sort((a, b) => a.bytes - b.bytes);
  assert.deepEqual(
    sizes.filter(({ bytes }) => bytes > 20_000),
    [],
  );
  const median = sizes[Math.floor(sizes.length / 2)]?.bytes ?? 0;
  assert.ok(median < 6000, `the median file has ${median} bytes`);
});

test('the pipeline reads as one page', { skip: !files.includes('pipeline.ts') && 'not there yet' }, () => {
  const lines = readFileSync(join(src, 'pipeline.ts'), 'utf8').split('\n').length;
  assert.ok(lines < 100, `src/pipeline.ts has ${lines} lines`);
});

/** Text files whose lines must be short. */
const TEXT = /\.(?:[cm]?[jt]s|c|h|py|css|html|md|ya?ml|sh)$|^\.ci\/run$/;
/** Files that programs write. */
const GENERATED = /^docs\/api\/|^campaign\/corpus\/(?!.*\.ts$)|^campaign\/seeds\.json$|(?:^|\/)package-lock\.json$/;
const WIDTH = 120;
const root = join(import.meta.dirname, '..');

test(
  `no line has more than ${WIDTH} columns, except lines with a URL and tables in Markdown`,
  { skip: !existsSync(join(root, '.git')) && 'this copy has no .git, which lists the files of the project' },
  () => {
    const tracked = execFileSync('git', ['ls-files', '-z'], { cwd: root, encoding: 'utf8' }).split('\0');
    const wrong: string[] = [];
    for (const file of tracked) {
      if (!TEXT.test(file) || GENERATED.test(file) || !existsSync(join(root, file))) continue;
      const markdown = file.endsWith('.md');
      for (const [i, line] of readFileSync(join(root, file), 'utf8').split('\n').entries()) {
        const exempt = /https?:\/\//.test(line) || (markdown && /^\s*\||\]\(/.test(line));
        if (line.length > WIDTH && !exempt) wrong.push(`${file}:${i + 1}`);
      }
    }
    assert.deepEqual(wrong, [], '`npm run format` breaks lines of code; break strings, comments and titles by hand');
  },
);
