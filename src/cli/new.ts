// dynamoe new: makes a small project with data, a config, a rule, a test and a page: a copy of examples/project.
import { existsSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, readdir, readFile, realpath, rename, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { basename, dirname, join, relative, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Command } from 'commander';
import { shellWord } from '../base/words.ts';
import { fault } from '../io/fault.ts';
import { ConfigError } from '../train/config-error.ts';

const root = fileURLToPath(new URL('../..', import.meta.url)),
  template = join(root, 'examples/project');
const FILES = ['config.ts', 'data/numbers.txt', 'page.ts', 'questions.jsonl', 'README.md', 'rule.test.ts', 'rule.ts'];

export function defineNew(command: Command): void {
  command
    .argument('<folder>', 'the folder of the project, which must not exist or must be empty')
    .description('Makes a small project that runs at once: data, a config, a rule, a test and a page.')
    .action(async (folder: string) => {
      await makeProject(folder);
      const lines = [
        ...(resolve(folder) === process.cwd() ? [] : [`cd ${shellWord(folder)}`]),
        'npm install',
        'npm start        # trains for some seconds',
        'npm test         # tests the rule',
        'npm run page     # serves a page on which the trained model writes',
      ];
      process.stdout.write(`${folder} is ready; its README.md says what each file is:\n  ${lines.join('\n  ')}\n`);
    });
}

/**
 * All files are written to another folder first, beside the project or in its empty folder, and then renamed. So no
 * file is half-written, and nothing is left if a file cannot be written.
 */
async function makeProject(folder: string): Promise<void> {
  if (folder === '') throw new ConfigError('the folder has no name', 'dynamoe new numbers');
  const path = resolve(folder);
  const there = await readdir(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null;
    if (error.code === 'ENOTDIR') throw new ConfigError(`${folder} is a file`, 'name a new folder');
    throw fault('read the folder', folder, error);
  });
  if (there !== null && there.length > 0)
    throw new ConfigError(`${folder} exists already and is not empty`, 'name a new folder');
  let made: string | null = null;
  try {
    if (there === null) await mkdir(dirname(path), { recursive: true });
    made = await mkdtemp(join(there === null ? dirname(path) : path, '.dynamoe-new-'));
    const project = join(made, 'project');
    await fill(project, join(await realpath(dirname(path)), basename(path)));
    if (there === null) await rename(project, path);
    else for (const name of await readdir(project)) await rename(join(project, name), join(path, name));
  } catch (error) {
    throw fault('make the project', folder, error);
  } finally {
    if (made !== null) await rm(made, { recursive: true, force: true });
  }
}

/** Writes the files of a project that will be at `path`. */
async function fill(project: string, path: string): Promise<void> {
  for (const file of FILES) {
    await mkdir(dirname(join(project, file)), { recursive: true });
    await copyFile(join(template, file), join(project, file));
  }
  const readme = await readFile(join(project, 'README.md'), 'utf8');
  await writeFile(
    join(project, 'README.md'),
    readme.replace('# NAME', () => `# ${basename(path)}`),
  );
  // npm leaves files of this name out of packages, so it cannot be in the template.
  await writeFile(join(project, '.gitignore'), 'node_modules/\nruns/\n');
  await writeFile(join(project, 'package.json'), `${JSON.stringify(packageOf(path), null, 2)}\n`);
}

/**
 * A checkout of DynaMoE is named by its path, and runs TypeScript with the Node that it has installed. A published
 * package is named by its version.
 */
function packageOf(path: string): object {
  const checkout = existsSync(join(root, 'tools/locked.mjs')),
    { version } = createRequire(import.meta.url)('../../package.json') as { version: string },
    place = relative(path, root).split(sep).join('/'),
    node = checkout ? 'node node_modules/dynamoe/tools/locked.mjs' : 'node';
  return {
    // What npm allows in a name.
    name:
      basename(path)
        .toLowerCase()
        .replace(/[^a-z0-9._-]+/g, '-')
        .replace(/^[._-]+/, '') || 'project',
    private: true,
    type: 'module',
    scripts: {
      start: 'dynamoe train config.ts',
      test: `${node} rule.test.ts`,
      page: `${node} page.ts`,
    },
    dependencies: { dynamoe: checkout ? `file:${place}` : `^${version}` },
    engines: { node: checkout ? '>=20' : '>=22.18' },
  };
}
