// Tests --recompile: which policies a run of `dynamoe train` has, and that `auto` changes no bit of the losses.
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { temporaryFolder } from '../io/folder.ts';
import { command, eventsOf, lossesOf, writeText } from './command.ts';

/** A config with a padded layer and a capacity, so that policies have something to change. */
const config = (overflow: 'spill' | 'drop') => ({
  steps: 120,
  batch: 4,
  evalEvery: 0,
  device: 'wasm',
  threads: 1,
  model: {
    layers: 1,
    dModel: 16,
    heads: 2,
    context: 16,
    moe: { experts: 4, topK: 2, hidden: 16, dispatch: 'padded', capacity: 3, overflow },
  },
});

test('auto, off and no flag give the same losses, bit for bit; auto makes only changes of class N', async (t) => {
  const folder = await temporaryFolder(t),
    text = await writeText(folder),
    file = join(folder, 'config.json');
  await writeFile(file, JSON.stringify(config('spill')));
  const run = async (...flags: string[]) => {
    const { code, stdout, stderr } = await command(
      'train',
      file,
      '--data',
      text,
      '--out',
      join(folder, `run${flags.join('')}`),
      '--json',
      ...flags,
    );
    assert.equal(code, 0, stderr);
    return { losses: lossesOf(stdout), changes: eventsOf(stdout).filter((e) => e.event === 'recompile') };
  };
  const [off, auto, none] = [await run('--recompile', 'off'), await run('--recompile', 'auto'), await run()];
  assert.equal(off.losses.size, 120);
  assert.deepEqual(auto.losses, off.losses);
  assert.deepEqual(none.losses, off.losses);
  assert.deepEqual(off.changes, []);
  assert.ok(
    [...auto.changes, ...none.changes].every((e) => e['class'] === 'N' && e['verified'] !== false),
    JSON.stringify(auto.changes),
  );
});

test('a policy that is named may change results, at a step that depends only on the loads', async (t) => {
  const folder = await temporaryFolder(t),
    text = await writeText(folder),
    file = join(folder, 'config.json');
  await writeFile(file, JSON.stringify(config('drop')));
  const { code, stdout, stderr } = await command(
    'train',
    file,
    '--data',
    text,
    '--steps',
    '60',
    '--out',
    join(folder, 'run'),
    '--recompile',
    'chooseDispatch,adaptCapacity',
    '--json',
  );
  assert.equal(code, 0, stderr);
  const change = eventsOf(stdout).find((e) => e.event === 'recompile' && e['rule'] === 'adaptCapacity');
  assert.deepEqual(
    [change?.['class'], change?.step, change?.['effect'], change?.['kept']],
    ['R', 18, 50, true],
    JSON.stringify(change),
  );
});

test('--memory: a model that does not fit is refused; auto makes it fit, with the same losses', async (t) => {
  const folder = await temporaryFolder(t),
    text = await writeText(folder),
    file = join(folder, 'config.json');
  await writeFile(
    file,
    JSON.stringify({
      steps: 3,
      batch: 16,
      evalBatch: 4,
      evalEvery: 0,
      device: 'wasm',
      threads: 1,
      model: { layers: 3, dModel: 32, heads: 2, context: 32, moe: { experts: 4, topK: 2, hidden: 128 } },
    }),
  );
  const run = (out: string, ...flags: string[]) =>
    command('train', file, '--data', text, '--out', join(folder, out), '--json', ...flags);
  const refused = await run('refused', '--memory', '5', '--recompile', 'off');
  assert.equal(refused.code, 1);
  assert.match(
    refused.stderr,
    /needs 7\.\d+ MiB .* 5\.00 MiB are available(.|\n)*recompute: true in 6 modules it would need .*fitMemory/,
  );
  const plain = await run('plain', '--recompile', 'off'),
    fitted = await run('fitted', '--memory', '5'),
    events = eventsOf(fitted.stdout);
  assert.deepEqual([plain.code, fitted.code], [0, 0], fitted.stderr);
  assert.deepEqual(lossesOf(fitted.stdout), lossesOf(plain.stdout));
  assert.deepEqual(
    events.filter((e) => e.event === 'recompile').map((e) => [e['rule'], e.step, e['effect'], e['class'], e['kept']]),
    [['fitMemory', 1, 1, 'N', true]],
  );
  assert.equal(events[0].event, 'start');
  const resumed = await command('train', '--data', text, '--out', join(folder, 'fitted'), '--json', '--resume');
  assert.equal(resumed.code, 0, resumed.stderr);
  assert.deepEqual(
    eventsOf(resumed.stdout).filter((e) => e.event === 'recompile'),
    [],
  );
});

test('a policy that does not exist is refused, by name, with those that do', async (t) => {
  const folder = await temporaryFolder(t),
    text = await writeText(folder);
  for (const name of ['nonsense', 'adaptCapacity,nonsense', 'auto,off']) {
    const { code, stdout, stderr } = await command(
      'train',
      '--data',
      text,
      '--out',
      join(folder, 'run'),
      '--recompile',
      name,
    );
    assert.deepEqual([code, stdout], [2, ''], stderr);
    assert.match(
      stderr,
      /--recompile <names>.*no policy named "\w+": auto, off, or some of adaptCapacity,chooseDispatch/,
    );
  }
});
