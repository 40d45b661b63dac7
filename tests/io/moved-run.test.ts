// Tests a run whose folder or files are moved or removed meanwhile: the user is told, and nothing is lost that can be
// kept.
import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import type { CheckpointContent } from '../../src/io/checkpoint.ts';
import { openRun, resolveCheckpoint, type RunFolder } from '../../src/io/run-folder.ts';
import { temporaryFolder } from './folder.ts';

const at = (step: number): CheckpointContent => ({
  tensors: [{ name: 'w', dtype: 'int32', shape: [1], data: () => Int32Array.of(step) }],
  meta: { step, seed: 0, config: null, optimizer: null, data: null },
});
const logged = async (path: string): Promise<unknown[]> =>
  (await readFile(join(path, 'events.jsonl'), 'utf8'))
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => (JSON.parse(line) as { step: number }).step);

interface Begun {
  readonly run: RunFolder;
  readonly path: string;
  readonly folder: string;
  readonly said: string[];
}

/** A run with two steps and a checkpoint of the second one. */
async function begin(folder: string): Promise<Begun> {
  const path = join(folder, 'run'),
    said: string[] = [],
    run = await openRun(path, {
      settings: { lr: 1 },
      say: (line) => {
        said.push(line);
      },
    });
  for (const step of [1, 2]) run.append({ event: 'step', step });
  await run.save(at(2));
  return { run, path, folder, said };
}

/**
 * Does one more step and ends the run. Then the folder must contain the whole run, and the run can be resumed from it.
 */
async function ends({ run }: Begun): Promise<void> {
  run.append({ event: 'step', step: 3 });
  const saved = await run.save(at(3)),
    { path } = run;
  await run.close();
  assert.equal(saved, join(path, 'step-00000003.safetensors'));
  assert.deepEqual(await logged(path), [1, 2, 3]);
  assert.equal(await resolveCheckpoint(path), saved);
  assert.deepEqual(
    (await readdir(path)).filter((name) => /lock|tmp/.test(name)),
    [],
  );
  const again = await openRun(path, { resume: true });
  assert.deepEqual([again.settings, again.checkpoint?.step], [{ lr: 1 }, 3]);
  await again.close();
}

test('a renamed folder is found', { skip: process.platform !== 'linux' && 'needs /proc' }, async (t) => {
  const begun = await begin(await temporaryFolder(t)),
    { run, path, folder, said } = begun,
    moved = join(folder, 'else where');
  await rename(path, moved);
  assert.equal(await run.keep(), false);
  await ends(begun);
  assert.equal(run.path, moved);
  assert.deepEqual(said, [`the run folder ${path} was moved to ${moved}: the run continues there`]);
  assert.deepEqual(await readdir(folder), ['else where']);
});

test('a removed folder is created again, with every event', async (t) => {
  const begun = await begin(await temporaryFolder(t)),
    { run, path, said } = begun;
  await rm(path, { recursive: true });
  assert.equal(await run.keep(), true);
  await ends(begun);
  assert.equal(run.path, path);
  assert.deepEqual(said, [
    `the run folder ${path} is gone: it is created again, with its log; earlier checkpoints are lost`,
  ]);
});

test('if another run took the place of the folder, that run is left alone', async (t) => {
  const begun = await begin(await temporaryFolder(t)),
    { run, path, said } = begun;
  await rm(path, { recursive: true });
  const other = await openRun(path, { settings: { lr: 2 } });
  assert.equal(await run.keep(), true);
  await ends(begun);
  assert.equal(run.path, `${path}.1`);
  assert.match(said[0], /is another folder now: the run continues in .*run\.1, with its log/);
  await other.close();
  assert.deepEqual((await readdir(path)).sort(), ['events.jsonl', 'run.json']);
});

test('a folder that was emptied, and one that was emptied and then used by another run', async (t) => {
  for (const used of [false, true]) {
    const begun = await begin(await temporaryFolder(t)),
      { run, path } = begun;
    for (const name of await readdir(path)) await rm(join(path, name));
    if (used) await (await openRun(path, { settings: { lr: 2 } })).close();
    assert.equal(await run.keep(), true);
    await ends(begun);
    assert.equal(run.path, used ? `${path}.1` : path);
    if (used) assert.deepEqual(await logged(path), []);
  }
});

test('a removed or replaced log is written again; the file in its place is kept', async (t) => {
  for (const replaced of [false, true]) {
    const begun = await begin(await temporaryFolder(t)),
      { run, path, said } = begun,
      log = join(path, 'events.jsonl');
    await rm(log);
    if (replaced) await writeFile(log, 'mine\n');
    assert.equal(await run.keep(), false);
    await ends(begun);
    assert.deepEqual(said, [`${log} was removed or replaced: it is written again, with every event`]);
    if (replaced) assert.equal(await readFile(`${log}.1`, 'utf8'), 'mine\n');
  }
});

test('removed settings are written again; nothing is reported for an unchanged folder', async (t) => {
  const begun = await begin(await temporaryFolder(t)),
    { run, path, said } = begun;
  assert.equal(await run.keep(), false);
  await rm(join(path, 'run.json'));
  assert.equal(await run.keep(), false);
  await ends(begun);
  assert.deepEqual(said, []);
  await mkdir(join(path, 'sub'));
});
