// dynamoe new: the project's own scripts run, as its README says; no folder of the user is changed.
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { command } from './command.ts';

const root = fileURLToPath(new URL('../..', import.meta.url)),
  folder = await mkdtemp(join(tmpdir(), 'dynamoe-new-'));
after(() => rm(folder, { recursive: true }));

// Node's test runner writes for another one if this variable is set.
const { NODE_TEST_CONTEXT: _, ...env } = process.env;

interface Package {
  readonly name: string;
  readonly scripts: Readonly<Record<string, string>>;
  readonly dependencies: Readonly<Record<string, string>>;
}

const packageOf = async (project: string): Promise<Package> =>
  JSON.parse(await readFile(join(project, 'package.json'), 'utf8')) as Package;

test('a new project trains, tests its rule, answers its questions and serves its page', async (t) => {
  const project = join(folder, 'My numbers'),
    made = await command('new', project);
  assert.equal(made.code, 0, made.stderr);
  assert.match(made.stdout, /npm install\n/);
  assert.deepEqual(
    (await readdir(folder)).filter((name) => name.startsWith('.')),
    [],
  );
  const { name, scripts, dependencies } = await packageOf(project);
  assert.equal(name, 'my-numbers');
  assert.match(await readFile(join(project, 'README.md'), 'utf8'), /^# My numbers\n/);
  // What `npm install` makes of a dependency that is a folder.
  assert.equal(join(project, dependencies['dynamoe'].replace('file:', '')), root.replace(/\/$/, ''));
  await mkdir(join(project, 'node_modules'));
  await symlink(root, join(project, 'node_modules/dynamoe'), 'dir');
  const run = async (script: string, ...args: readonly string[]): Promise<string> => {
    const [program, ...words] = script.replace(/^dynamoe /, 'node node_modules/dynamoe/bin/dynamoe.mjs ').split(' ');
    assert.equal(program, 'node');
    return (await promisify(execFile)(process.execPath, [...words, ...args], { cwd: project, env })).stdout;
  };

  assert.match(await run(scripts['start'], '--steps', '40', '--out', 'runs/first'), /checkpoint runs\/first\//);
  assert.match(await run(scripts['test']), /pass 2\n/);
  assert.match(await run('dynamoe eval', 'runs/first', '--task', 'questions.jsonl'), /^acc +\d+ +100 /m);

  const page = spawn(process.execPath, scripts['page'].split(' ').slice(1), {
    cwd: project,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.after(() => page.kill());
  const [url] = (await Promise.race([once(page.stdout.setEncoding('utf8'), 'data'), once(page, 'exit')])) as unknown[];
  assert.match(String(url), /^http:/);
  const body = await (await fetch(`${String(url).trim()}?prompt=${encodeURIComponent('<b>after 7')}`)).text();
  assert.match(body, /value="&lt;b&gt;after 7"/);
  assert.match(body, /<output>&lt;b&gt;after 7/);
  assert.doesNotMatch(body, /<b>/);
});

test('a folder with content is refused and stays as it is; an empty one is used', async () => {
  const full = join(folder, 'full'),
    empty = join(folder, 'empty'),
    file = join(full, 'mine.txt');
  await mkdir(full);
  await writeFile(file, 'mine');
  const refused = await command('new', full);
  assert.equal(refused.code, 2);
  assert.match(refused.stderr, /full exists already and is not empty\n {2}hint: name a new folder/);
  assert.deepEqual(await readdir(full), ['mine.txt']);
  assert.match((await command('new', file)).stderr, /mine\.txt is a file/);
  assert.match((await command('new', '')).stderr, /the folder has no name/);
  assert.match((await command('new', join(file, 'below'))).stderr, /is a file/);
  assert.equal(await readFile(file, 'utf8'), 'mine');

  await mkdir(empty);
  assert.equal((await command('new', empty)).code, 0);
  const entries = await readdir(empty);
  assert.ok(entries.includes('config.ts') && entries.every((name) => !name.startsWith('.dynamoe')), entries.join());
});

test('any name of a folder gives a name that npm accepts', async () => {
  for (const [name, want] of [
    ['Zahlen für mich', 'zahlen-f-r-mich'],
    ['..hidden', 'hidden'],
    ['数', 'project'],
  ]) {
    const project = join(folder, name);
    assert.equal((await command('new', project)).code, 0, name);
    assert.equal((await packageOf(project)).name, want, basename(project));
  }
});
