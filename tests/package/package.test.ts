// Tests the package as users get it: packed, installed into an empty project, type-checked, run on Node 24 and 22,
// bundled for a browser, and run there without anything from Node.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { createContext, runInContext } from 'node:vm';
import { stripTypeScriptTypes } from 'node:module';
import { gzipSync } from 'node:zlib';
import * as esbuild from 'esbuild';
import { newSyntax, node22 } from '../support/oldest-node.ts';
import { noCompiler } from '../support/toy.ts';
import { bundleCore, zippedKb } from '../../tools/core-bundle.ts';
import { CORE_KB, LATER_KB } from '../support/core-size.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const run = promisify(execFile);
const MINUTES = 5 * 60_000;
const UNREACHABLE = /ENOTCACHED|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ENETUNREACH/;

const folder = await mkdtemp(join(tmpdir(), 'dynamoe-test-')),
  project = join(folder, 'project');
after(async () => {
  await rm(folder, { recursive: true, force: true });
  await esbuild.stop();
});

// npm's variables for scripts that it runs must not reach the npm that this test runs.
const env = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !/^npm_(config_(local_)?prefix|package|lifecycle)/i.test(name)),
);
const npm = (cwd: string, ...args: readonly string[]): Promise<{ stdout: string; stderr: string }> =>
  run('npm', args, { cwd, env, timeout: MINUTES, shell: process.platform === 'win32' });

/** The reason why the package could not be installed; false if it is installed. */
const skip: string | false = await install();

async function install(): Promise<string | false> {
  await run(process.execPath, ['tools/build.ts'], { cwd: root, timeout: MINUTES });
  const { stdout } = await npm(root, 'pack', '--ignore-scripts', '--json', '--pack-destination', folder);
  const [{ filename }] = Object.values(JSON.parse(stdout) as { filename: string }[]);
  await mkdir(project);
  await writeFile(join(project, 'package.json'), JSON.stringify({ name: 'empty', private: true, type: 'module' }));
  try {
    await npm(
      project,
      'install',
      '--prefer-offline',
      '--ignore-scripts',
      '--no-audit',
      '--no-fund',
      '--loglevel=error',
      join(folder, filename),
    );
  } catch (error) {
    if (error instanceof Error && UNREACHABLE.test(error.message)) return 'the npm registry is not reachable';
    throw error;
  }
  for (const name of ['train.ts', 'page.ts', 'in-node.ts'])
    await copyFile(join(import.meta.dirname, name), join(project, name));
  return false;
}

type Results = Readonly<Record<string, { readonly description: string; readonly losses: readonly number[] }>>;
const learned = (losses: readonly number[]): void => {
  assert.equal(losses.length, 10);
  assert.ok(losses.every(Number.isFinite) && losses[9] < losses[0] - 0.1, `losses ${losses.join(' ')}`);
};
/** The message of an engine whose multiply-add rounds the product before the sum. */
const fuses = (description: string): boolean => !description.includes('rounds products');

const nodes: readonly { readonly name: string; readonly path: string | null }[] = [
  { name: 'Node 24', path: process.execPath },
  { name: 'Node 22', path: node22() },
];
const runs = new Map<string, Results>();
for (const { name, path } of nodes) {
  const skipHere = skip || (path === null && `no packaged ${name} for ${process.platform}-${process.arch}`);
  test(
    `${name}: every export exists, and ten steps train on every device with the same bits`,
    { skip: skipHere },
    async () => {
      const devices = [...(noCompiler ? [] : ['native']), 'wasm', 'auto'];
      const { stdout, stderr } = await run(path ?? '', ['--no-warnings', 'train.ts', ...devices], {
        cwd: project,
        timeout: MINUTES,
      });
      const results = JSON.parse(stdout) as Results;
      runs.set(name, results);
      Object.values(results).forEach(({ losses }) => {
        learned(losses);
      });
      if (noCompiler) assert.match(stderr, /^no C compiler found: running on the wasm device.*\n$/);
      else {
        assert.equal(stderr, '');
        assert.match(results['auto'].description, /C kernels/);
        if (fuses(results['wasm'].description)) assert.deepEqual(results['wasm'].losses, results['native'].losses);
      }
    },
  );

  test(`${name}: without a compiler, auto says so in one line and trains on wasm`, { skip: skipHere }, async () => {
    const { stdout, stderr } = await run(path ?? '', ['--no-warnings', 'train.ts', 'auto'], {
      cwd: project,
      timeout: MINUTES,
      env: { ...env, CC: 'no-such-compiler' },
    });
    assert.match(
      stderr,
      /^CC is "no-such-compiler": there is no program no-such-compiler: running on the wasm device; with gcc or .*\n$/,
    );
    const { auto } = JSON.parse(stdout) as Results;
    assert.match(auto.description, /WebAssembly/);
    learned(auto.losses);
  });

  test(`${name}: the command runs`, { skip: skipHere }, async () => {
    const { stdout } = await run(path ?? '', ['node_modules/dynamoe/bin/dynamoe.mjs', '--version'], {
      cwd: project,
      timeout: MINUTES,
    });
    const { version } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as { version: string };
    assert.equal(stdout, `${version}\n`);
  });

  test(`${name}: a project of \`dynamoe new\` trains and tests its rule`, { skip: skipHere }, async () => {
    const own = `numbers-${name.replace(' ', '-')}`,
      bin = join(project, 'node_modules/dynamoe/bin/dynamoe.mjs'),
      { NODE_TEST_CONTEXT: _, ...plain } = env,
      inProject = async (cwd: string, ...args: readonly string[]): Promise<string> =>
        (await run(path ?? '', args, { cwd, env: plain, timeout: MINUTES })).stdout;
    await inProject(project, bin, 'new', own);
    const made = join(project, own),
      { scripts } = JSON.parse(await readFile(join(made, 'package.json'), 'utf8')) as {
        scripts: Record<string, string>;
      };
    assert.deepEqual(scripts, { start: 'dynamoe train config.ts', test: 'node rule.test.ts', page: 'node page.ts' });
    // The project finds the package in the folder above.
    assert.match(await inProject(made, bin, 'train', 'config.ts', '--steps', '20'), /checkpoint runs/);
    assert.match(await inProject(made, 'rule.test.ts'), /pass 2\n/);
  });
}

for (const { name, path } of nodes) {
  const skipHere = skip || (path === null && `no packaged ${name} for ${process.platform}-${process.arch}`);
  test(`${name}: the dashboard serves each of its files`, { skip: skipHere }, async (t) => {
    const log = join(project, 'a-run');
    await mkdir(log, { recursive: true });
    await writeFile(join(log, 'events.jsonl'), '');
    const child = execFile(path ?? '', ['node_modules/dynamoe/bin/dynamoe.mjs', 'dash', log], { cwd: project });
    t.after(() => child.kill());
    const url = await new Promise<string>((resolve, reject) => {
      child.stdout?.on('data', (text: string) => {
        const [found] = /http:\/\/\S+/.exec(text) ?? [];
        if (found) resolve(found);
      });
      child.stderr?.on('data', (text: string) => {
        reject(new Error(text));
      });
    });
    const seen = new Set<string>(),
      open = [''];
    for (let file = open.pop(); file !== undefined; file = open.pop()) {
      if (seen.has(file)) continue;
      seen.add(file);
      const answer = await fetch(url + file),
        text = await answer.text();
      assert.equal(answer.status, 200, `/${file}`);
      if (file !== 'uPlot.js')
        open.push(...[...text.matchAll(/(?:(?:src|href)="|(?:from|VENDOR =) ['"]\.\/)([^"'#]+)/g)].map((m) => m[1]));
    }
    assert.ok(seen.size > 12 && seen.has('uPlot.js') && seen.has('heat.js'), [...seen].join(' '));
  });
}

test('the package contains the built playground', { skip }, async () => {
  const folder = join(project, 'node_modules/dynamoe/dist/web'),
    html = await readFile(join(folder, 'index.html'), 'utf8');
  const wanted = [...html.matchAll(/(?:src|href)="([^"#]+)"/g)].map((m) => m[1]);
  assert.deepEqual(
    [...wanted, 'worker.js', 'uPlot.js'].filter((name) => !existsSync(join(folder, name))),
    [],
  );
  assert.ok(wanted.includes('page.js'));
});

for (const [module, moduleResolution] of [
  ['nodenext', 'nodenext'],
  ['esnext', 'bundler'],
]) {
  test(`types resolve with moduleResolution ${moduleResolution}`, { skip }, async () => {
    const config = join(project, `tsconfig.${moduleResolution}.json`);
    await writeFile(
      config,
      JSON.stringify({
        compilerOptions: {
          module,
          moduleResolution,
          target: 'es2024',
          lib: ['ES2024', 'ESNext.Disposable', 'DOM'],
          types: [],
          strict: true,
          noEmit: true,
          resolveJsonModule: true,
        },
        files: ['train.ts', 'page.ts'],
      }),
    );
    const { stdout } = await run(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', config], {
      cwd: project,
      timeout: MINUTES,
    }).catch((error: unknown) => error as { stdout: string });
    assert.equal(stdout, '');
  });
}

const bundle = async (options: esbuild.BuildOptions): Promise<{ text: string; inputs: string[] }> => {
  const { outputFiles = [], metafile } = await esbuild.build({
    bundle: true,
    platform: 'browser',
    target: 'es2022',
    minify: true,
    write: false,
    metafile: true,
    absWorkingDir: project,
    logLevel: 'silent',
    ...options,
  });
  return { text: outputFiles[0].text, inputs: Object.keys(metafile?.inputs ?? {}) };
};

test('a bundle for browsers trains without anything from Node', { skip }, async (t) => {
  // A bundler fails on a Node module.
  const { text, inputs } = await bundle({ entryPoints: ['page.ts'], format: 'iife', globalName: 'page' });
  assert.deepEqual(
    inputs.filter((path) => !/^(page\.ts|node_modules\/dynamoe\/dist\/.*)$/.test(path)),
    [],
  );
  assert.deepEqual(
    inputs.filter((path) => /native|session\/node/.test(path)),
    [],
  );
  const bare = createContext({
    TextEncoder,
    TextDecoder,
    performance,
    crypto,
    MessageChannel,
    crossOriginIsolated: false,
  });
  runInContext(text, bare);
  const losses = await (runInContext('page.run(2)', bare) as Promise<number[]>);
  learned([...losses]);
  const here = runs.get('Node 24')?.['wasm'].losses;
  assert.deepEqual([...losses], here, 'the bits that the package gives in Node, unbundled');
  t.diagnostic(
    `the bundle of a training program: ${text.length} bytes, ${gzipSync(text, { level: 9 }).length} gzipped`,
  );
});

test('a minified bundle can start its threads', { skip }, async () => {
  const { text } = await bundle({ entryPoints: ['page.ts'], format: 'esm' });
  await writeFile(join(project, 'bundle.mjs'), text);
  const { stdout } = await run(
    process.execPath,
    [
      '--input-type=module',
      '-e',
      `import { run } from ${JSON.stringify(pathToFileURL(join(project, 'bundle.mjs')).href)};
console.log(JSON.stringify(await run(2)));`,
    ],
    { cwd: project, timeout: MINUTES },
  );
  assert.deepEqual(JSON.parse(stdout), runs.get('Node 24')?.['wasm'].losses);
});

interface InNode {
  readonly device?: string;
  readonly said?: readonly string[];
  readonly loss?: number;
  readonly doors?: readonly string[];
  readonly error?: string;
}

for (const format of ['esm', 'cjs'] as const) {
  const file = format === 'esm' ? 'in-node.mjs' : 'in-node.cjs';
  const inNode = async (external: string[], device: string): Promise<InNode> => {
    await esbuild.build({
      entryPoints: ['in-node.ts'],
      bundle: true,
      platform: 'node',
      format,
      external,
      outfile: file,
      absWorkingDir: project,
      logLevel: 'silent',
    });
    return JSON.parse(
      (await run(process.execPath, [file, device], { cwd: project, timeout: MINUTES })).stdout,
    ) as InNode;
  };

  test(
    `a bundle for Node (${format}) that leaves the package out has the native device`,
    { skip: skip || (noCompiler && 'no C compiler') },
    async () => {
      for (const device of ['native', 'auto']) {
        const { device: is, said, doors } = await inNode(['dynamoe', 'dynamoe/*'], device);
        assert.match(is ?? '', /C kernels/);
        assert.deepEqual([said, doors], [[], ['function', 'function', 'function']]);
      }
    },
  );

  for (const external of [[], ['koffi']]) {
    test(
      `a bundle for Node (${format}) with the package in it runs on wasm and says ` +
        `why${external.length > 0 ? ', with koffi left out, too' : ''}`,
      { skip },
      async () => {
        const wasm = await inNode(external, 'wasm'),
          auto = await inNode(external, 'auto'),
          native = await inNode(external, 'native');
        assert.match(wasm.device ?? String(wasm.error), /WebAssembly/);
        assert.deepEqual([wasm.said, wasm.doors], [[], ['function', 'function', 'function']]);
        assert.match(auto.device ?? String(auto.error), /WebAssembly/);
        assert.equal(auto.loss, wasm.loss);
        assert.match(
          auto.said?.join('\n') ?? '',
          /^device native: dynamoe is part of a bundle.* lacks the C sources .* the wasm device.*--external:dynamoe.*$/,
        );
        assert.match(
          native.error ?? '',
          /^UserError: device native: dynamoe is part of a bundle[^\n]*\n {2}hint: .*\(esbuild --external:dynamoe/,
        );
      },
    );
  }

  test(`a bundle for Node (${format}) with the package in it runs where koffi is not installed`, { skip }, async () => {
    await esbuild.build({
      entryPoints: ['in-node.ts'],
      bundle: true,
      platform: 'node',
      format,
      external: ['koffi'],
      outfile: join(folder, file),
      absWorkingDir: project,
      logLevel: 'silent',
    });
    for (const device of ['auto', 'wasm']) {
      const { device: is, error } = JSON.parse(
        (await run(process.execPath, [file, device], { cwd: folder, timeout: MINUTES })).stdout,
      ) as InNode;
      assert.match(is ?? String(error), /WebAssembly/);
    }
  });
}

for (const { name, path } of nodes) {
  test(
    `${name}: CommonJS can require every entry point of the package`,
    { skip: skip || (path === null && `no packaged ${name}`) },
    async () => {
      const doors = [
        'dynamoe',
        'dynamoe/core',
        'dynamoe/whole',
        'dynamoe/node',
        'dynamoe/data',
        'dynamoe/layers',
        'dynamoe/log',
        'dynamoe/recompile',
      ];
      await writeFile(
        join(project, 'required.cjs'),
        `console.log(${JSON.stringify(doors)}.every((door) => Object.keys(require(door)).length > 0));`,
      );
      assert.equal((await run(path ?? '', ['required.cjs'], { cwd: project, timeout: MINUTES })).stdout, 'true\n');
    },
  );
}

test('no file of the package has syntax that Node 22.18 lacks', { skip }, async () => {
  const folder = join(project, 'node_modules/dynamoe'),
    files = (await readdir(folder, { recursive: true })).filter((f) => /\.m?js$/.test(f) && !f.includes('web'));
  assert.ok(files.length > 300, `${files.length} files`);
  assert.deepEqual(
    await newSyntax(
      await Promise.all(files.map(async (file) => ({ file, text: await readFile(join(folder, file), 'utf8') }))),
    ),
    [],
  );
});

test('unused code is not bundled, and the core is small', { skip }, async (t) => {
  const core = await bundleCore(project, 'dynamoe', { logLevel: 'silent' }),
    size = [...core.first.values()].reduce((n, bytes) => n + bytes.length, 0),
    kb = zippedKb(core.first.values()),
    later = zippedKb(core.later.values());
  t.diagnostic(`the whole core: ${size} bytes minified, ${kb} kB gzipped, and ${later} kB when asked for`);
  assert.ok(kb <= CORE_KB && later <= LATER_KB, `${kb} and ${later} kB, the limits are ${CORE_KB} and ${LATER_KB}`);
  // The files that are loaded later do not exist, so training cannot need them.
  const folder = join(project, 'core');
  await mkdir(folder);
  for (const [name, bytes] of core.first) await writeFile(join(folder, name), bytes);
  await writeFile(
    join(folder, 'page.mjs'),
    `${await readFile(join(project, 'page.ts'), 'utf8').then((text) =>
      stripTypeScriptTypes(text.replace("'dynamoe'", "'./core.js'")),
    )}\nconsole.log(JSON.stringify(await run(2)));`,
  );
  const { stdout } = await run(process.execPath, ['--no-warnings', join(folder, 'page.mjs')], { timeout: MINUTES });
  assert.deepEqual(JSON.parse(stdout), runs.get('Node 24')?.['wasm'].losses);
  for (const [name, bytes] of core.later) await writeFile(join(folder, name), bytes);
  await writeFile(
    join(folder, 'later.mjs'),
    `import { compile, loss, nn } from './core.js';
const session = await compile(new nn.MLP([4, 8, 4]), { loss: loss.meanSquaredError, threads: 1 });
console.log((await session.serialize()).length);
await session.close();`,
  );
  const asked = await run(process.execPath, [join(folder, 'later.mjs')], { timeout: MINUTES });
  assert.ok(Number(asked.stdout) > 4 * (4 * 8 + 8 * 4), asked.stdout);
  const nothing = await bundle({ stdin: { contents: "import 'dynamoe';", resolveDir: project }, format: 'esm' });
  assert.equal(nothing.text.trim(), '', 'the package has no side effects');
  const little = await bundle({
    stdin: { contents: "export { textFrom } from 'dynamoe';", resolveDir: project },
    format: 'esm',
  });
  assert.ok(little.text.length < size / 10, `textFrom alone takes ${little.text.length} of ${size} bytes`);
});
