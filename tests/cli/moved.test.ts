// Tests `dynamoe train` while the folder, the log or the data of the run is moved or removed.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import { temporaryFolder } from '../io/folder.ts';
import { command, start, TINY, writeText, type Running } from './command.ts';

const LONG = ['--steps', '1000000', '--save-every', '0', '--eval-every', '0', '--device', 'wasm', '--threads', '1'];

async function begun(folder: string, ...flags: readonly string[]): Promise<Running> {
  const run = start(
    'train',
    '--data',
    await writeText(folder),
    ...TINY,
    ...LONG,
    '--out',
    join(folder, 'run'),
    ...flags,
  );
  while (!/^step 1\//m.test(run.output())) {
    assert.equal(run.child.exitCode, null, 'the run ended before its first step');
    await wait(50);
  }
  return run;
}

async function stopped({ child, ended }: Running): Promise<string> {
  child.kill('SIGINT');
  const { code, stderr } = await ended;
  assert.equal(code, 130, stderr);
  return stderr;
}

const steps = async (path: string): Promise<number[]> =>
  (await readFile(join(path, 'events.jsonl'), 'utf8'))
    .split('\n')
    .filter((line) => line.startsWith('{"event":"step"'))
    .map((line) => (JSON.parse(line) as { step: number }).step);

test(
  'a renamed run folder is found, and the printed command to continue has its new path',
  { skip: process.platform !== 'linux' && 'needs /proc', timeout: 120_000 },
  async (t) => {
    const folder = await temporaryFolder(t),
      run = await begun(folder, '--tensorboard');
    await rename(join(folder, 'run'), join(folder, 'moved here'));
    const stderr = await stopped(run);
    assert.match(stderr, /run was moved to .*moved here: the run continues there/);
    assert.match(stderr, /to continue: dynamoe train --resume --out '.*moved here'/);
    assert.ok(!existsSync(join(folder, 'run')));
    assert.doesNotMatch(stderr, /logger failed/);
    assert.ok((await readdir(join(folder, 'moved here'))).some((name) => name.startsWith('step-')));
  },
);

test(
  'if the run folder and the data are removed, the run saves at once and writes the whole log again',
  { timeout: 120_000 },
  async (t) => {
    const folder = await temporaryFolder(t),
      run = await begun(folder),
      path = join(folder, 'run');
    await rm(path, { recursive: true });
    await rename(join(folder, 'text.txt'), join(folder, 'other.txt'));
    const stderr = await stopped(run),
      all = await steps(path);
    assert.match(stderr, /run is gone: it is created again, with its log/);
    assert.deepEqual(
      all,
      all.map((_, i) => i + 1),
    );
    const again = await command(
      'train',
      '--resume',
      '--out',
      path,
      '--steps',
      `${all.length + 1}`,
      '--data',
      join(folder, 'other.txt'),
    );
    assert.equal(again.code, 0, again.stderr);
    const goes = await command('eval', path, '--data', join(folder, 'other.txt'));
    assert.equal(goes.code, 0, goes.stderr);
  },
);

test('removed trace and TensorBoard files are named, and the run continues', { timeout: 120_000 }, async (t) => {
  const folder = await temporaryFolder(t),
    trace = join(folder, 'trace.jsonl'),
    run = await begun(folder, '--tensorboard', '--trace', trace);
  await rm(trace);
  await rm(join(folder, 'run', 'tensorboard'), { recursive: true });
  await wait(500);
  const stderr = await stopped(run);
  assert.match(stderr, /a logger failed and is left out: .*trace\.jsonl is gone/);
  assert.match(stderr, /a logger failed and is left out: .*tfevents.* is gone/);
  assert.ok(!existsSync(trace), 'a trace without its header is not written');
});
