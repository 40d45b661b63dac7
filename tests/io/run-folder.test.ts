// Tests run folders: refusing or resuming, one process at a time, the newest undamaged checkpoint, and events that
// match it.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { appendFile, mkdir, readdir, readFile, symlink, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import type { CheckpointContent } from '../../src/io/checkpoint.ts';
import { lockFolder } from '../../src/io/lock.ts';
import { pidSpace } from '../../src/io/process.ts';
import { openRun, resolveCheckpoint, storedSettings } from '../../src/io/run-folder.ts';
import { says, temporaryFolder } from './folder.ts';

const at = (step: number): CheckpointContent => ({
  tensors: [{ name: 'w', dtype: 'int32', shape: [1], data: () => Int32Array.of(step) }],
  meta: { step, seed: 0, config: null, optimizer: null, data: null },
});
const steps = async (path: string): Promise<unknown[]> =>
  (await readFile(join(path, 'events.jsonl'), 'utf8'))
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => (JSON.parse(line) as { step?: number }).step);

test('a run is created, is refused without `resume`, and continues from its newest checkpoint', async (t) => {
  const path = join(await temporaryFolder(t), 'a', 'run');
  const run = await openRun(path, { settings: { lr: 1 } });
  assert.equal(run.checkpoint, undefined);
  run.append({ event: 'start' });
  for (let step = 1; step <= 7; step++) {
    run.append({ event: 'step', step });
    if (step % 2 === 0) assert.equal(await run.save(at(step)), join(path, `step-0000000${step}.safetensors`));
  }
  await run.close();
  assert.deepEqual((await readdir(path)).sort(), [
    'events.jsonl',
    'run.json',
    'step-00000004.safetensors',
    'step-00000006.safetensors',
  ]);
  await assert.rejects(openRun(path), says(path, 'already holds a run', '--resume'));
  assert.equal(await resolveCheckpoint(path), join(path, 'step-00000006.safetensors'));

  const again = await openRun(path, { resume: true, settings: { lr: 2 } });
  assert.deepEqual(again.settings, { lr: 1 });
  assert.deepEqual(again.checkpoint, { path: join(path, 'step-00000006.safetensors'), step: 6 });
  assert.deepEqual(await steps(path), [undefined, 1, 2, 3, 4, 5, 6]);
  again.append({ event: 'step', step: 7 });
  await again.close();
  assert.deepEqual(await steps(path), [undefined, 1, 2, 3, 4, 5, 6, 7]);
});

test('without a checkpoint, a run starts again and its events are removed', async (t) => {
  const path = await temporaryFolder(t);
  const run = await openRun(path);
  run.append({ step: 1 });
  await run.close();
  const again = await openRun(path, { resume: true });
  assert.equal(again.checkpoint, undefined);
  await again.close();
  assert.deepEqual(await steps(path), []);
  await assert.rejects(resolveCheckpoint(path), says(path, 'contains no checkpoint', '--out'));
});

test('--resume of a run that does not exist starts it; a folder with other files is refused', async (t) => {
  const folder = await temporaryFolder(t);
  await (await openRun(join(folder, 'new'), { resume: true })).close();
  for (const resume of [false, true])
    await assert.rejects(openRun(folder, { resume }), says(folder, 'not a run folder', 'new'));
  assert.deepEqual(await readdir(folder), ['new']);
  await writeFile(join(folder, 'file'), '');
  await assert.rejects(
    openRun(join(folder, 'file')),
    says('cannot create the folder', 'file', 'a file of that name is there'),
  );
  await assert.rejects(
    openRun(join(folder, 'file', 'run')),
    says('cannot create the folder', 'file/run', 'a part of the path is a file'),
  );
  await assert.rejects(
    openRun(join(folder, 'x'.repeat(300))),
    says('cannot create the folder', 'the name is too long'),
  );
  await symlink(join(folder, 'nowhere'), join(folder, 'link'));
  await assert.rejects(openRun(join(folder, 'link')), says('cannot create the folder', 'link'));
});

test(
  'if no folder can be created, the error says why at once',
  { skip: process.platform !== 'linux' && 'needs /proc' },
  async (t) => {
    await assert.rejects(openRun('/proc/dynamoe/run'), says('cannot create the folder /proc/dynamoe'));
    await assert.rejects(
      openRun('/dev/null/run'),
      says('cannot create the folder /dev/null/run', 'a part of the path is a file'),
    );
    const ro = join(await temporaryFolder(t), 'ro');
    await mkdir(ro);
    if (process.getuid?.() === 0 && spawnSync('mount', ['-t', 'tmpfs', '-o', 'ro', 'tmpfs', ro]).status === 0) {
      try {
        await assert.rejects(
          openRun(join(ro, 'a', 'run')),
          says('cannot create the folder', 'the file system is read-only'),
        );
        await assert.rejects(lockFolder(ro), says('cannot write', 'the file system is read-only'));
      } finally {
        spawnSync('umount', [ro]);
      }
    }
  },
);

test(
  'on a full disk the earlier checkpoint stays, and no incomplete file is left',
  { skip: process.getuid?.() !== 0 && 'needs root, to mount' },
  async (t) => {
    const small = join(await temporaryFolder(t), 'small'),
      path = join(small, 'run');
    await mkdir(small);
    if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=100k', 'tmpfs', small]).status !== 0) {
      t.skip('mount does not work here');
      return;
    }
    try {
      const run = await openRun(path),
        large = {
          ...at(2),
          tensors: [{ name: 'w', dtype: 'int32' as const, shape: [50_000], data: () => new Int32Array(50_000) }],
        };
      const saved = await run.save(at(1)),
        before = await readFile(saved);
      for (let i = 0; i < 2; i++)
        await assert.rejects(
          run.save(large),
          says('cannot write', 'step-00000002', 'no space left on the device', 'what was there before is untouched'),
        );
      assert.deepEqual(await readFile(saved), before);
      assert.ok(!(await readdir(path)).some((name) => name.endsWith('.tmp') || name.includes('00000002')));
      assert.throws(
        () => {
          for (;;) run.append({ step: 2, text: 'x'.repeat(5000) });
        },
        says('cannot write', 'events.jsonl', 'no space left on the device'),
      );
      await run.close();
      spawnSync('mount', ['-o', 'remount,size=1m', small]);
      const again = await openRun(path, { resume: true });
      assert.deepEqual(
        [again.checkpoint?.step, await steps(path)],
        [1, []],
        'the incomplete line and events after the checkpoint are removed',
      );
      await again.save(large);
      await again.close();
      assert.equal(await resolveCheckpoint(path), join(path, 'step-00000002.safetensors'));
    } finally {
      spawnSync('umount', [small]);
    }
  },
);

test('names may have spaces, line breaks, other scripts and leading dashes', async (t) => {
  const folder = await temporaryFolder(t);
  for (const name of [
    'two words',
    '名前 ü',
    '-x',
    '--resume',
    'a\nb',
    `"quoted" 'too'`,
    '$(id)',
    '#',
    'é'.repeat(127),
  ]) {
    const path = join(folder, name),
      run = await openRun(path, { settings: { name } });
    run.append({ step: 1 });
    const saved = await run.save(at(1));
    await run.close();
    assert.equal(await resolveCheckpoint(path), saved);
    await assert.rejects(
      openRun(path),
      (error: Error) => error.message.split('\n').length === 2 && error.message.includes('already holds a run'),
    );
  }
});

test('a damaged checkpoint is reported and skipped, and the one before it is used', async (t) => {
  const path = await temporaryFolder(t);
  const run = await openRun(path);
  for (const step of [5, 10]) {
    run.append({ step });
    await run.save(at(step));
  }
  await run.close();
  await truncate(join(path, 'step-00000010.safetensors'), 50);
  await writeFile(join(path, '.step-00000015.safetensors.0123456789abcdef.tmp'), 'torn');
  const again = await openRun(path, { resume: true });
  assert.equal(again.checkpoint?.step, 5);
  assert.equal(again.damaged.length, 1);
  assert.match(again.damaged[0], /step-00000010.*not a valid/);
  assert.deepEqual(await steps(path), [5]);
  await again.save(at(10));
  await again.close();
  assert.equal(await resolveCheckpoint(path), join(path, 'step-00000010.safetensors'));
  assert.ok(!(await readdir(path)).some((name) => name.endsWith('.tmp')));
});

test('an incomplete or invalid last line is removed when the log is opened again', async (t) => {
  const path = await temporaryFolder(t);
  const run = await openRun(path);
  run.append({ step: 1, text: 'ü\n' });
  await run.save(at(1));
  await run.close();
  await appendFile(join(path, 'events.jsonl'), '{"step":1,"lo');
  const again = await openRun(path, { resume: true });
  again.append({ step: 2 });
  await again.close();
  assert.deepEqual(await steps(path), [1, 2]);
});

test('a run folder in use is refused: by this process, by another, or on another machine', async (t) => {
  const path = await temporaryFolder(t);
  const run = await openRun(path);
  await assert.rejects(openRun(path, { resume: true }), says(path, `in use by process ${process.pid}`));
  await run.close();

  const code = `import { lockFolder } from ${JSON.stringify(new URL('../../src/io/lock.ts', import.meta.url).href)};
    await lockFolder(${JSON.stringify(path)}); console.log('locked'); setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module-typescript', '-e', code], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(child.stdout, 'data');
  await assert.rejects(openRun(path, { resume: true }), says(`in use by process ${child.pid}`, 'wait for it'));
  child.kill('SIGKILL');
  await once(child, 'exit');
  await (await openRun(path, { resume: true })).close();
  assert.deepEqual((await readdir(path)).sort(), ['events.jsonl', 'run.json']);

  const elsewhere = join(path, 'lock.00000000.1.1.00000000');
  await writeFile(elsewhere, 'process 1 on moon\n');
  await assert.rejects(lockFolder(path), says('in use by process 1 on moon', 'wait 60 seconds or delete', elsewhere));
  await utimes(elsewhere, new Date(), new Date(Date.now() - 100_000));
  await (await lockFolder(path)).release();
  assert.deepEqual((await readdir(path)).sort(), ['events.jsonl', 'run.json']);
});

test(
  'a lock whose process id now belongs to another process is not valid',
  { skip: process.platform !== 'linux' && 'needs /proc' },
  async (t) => {
    const path = await temporaryFolder(t);
    await writeFile(join(path, `lock.${pidSpace()}.${process.pid}.12345.00000000`), '');
    await (await lockFolder(path)).release();
  },
);

test('if many lock a folder at the same time, at most one succeeds', async (t) => {
  const path = await temporaryFolder(t);
  for (let round = 0; round < 20; round++) {
    const results = await Promise.allSettled(Array.from({ length: 5 }, () => lockFolder(path)));
    const got = results.filter((r) => r.status === 'fulfilled');
    assert.ok(got.length <= 1, `${got.length} of 5 hold the lock`);
    for (const { value } of got) await value.release();
  }
  await (await lockFolder(path)).release();
  assert.deepEqual(await readdir(path), []);
});

test('a run that continues with other settings keeps them; a run that is refused keeps its own', async (t) => {
  const path = join(await temporaryFolder(t), 'run');
  const first = await openRun(path, { settings: { steps: 1 } });
  await first.save(at(1));
  await first.close();
  const refused = openRun(path, {
    resume: true,
    settings: { steps: 2 },
    renew: true,
    check: () => Promise.reject(new Error('no')),
  });
  await assert.rejects(refused, /no/);
  for (const [settings, kept] of [
    [undefined, 1],
    [{ steps: 3 }, 3],
    [undefined, 3],
  ] as const) {
    const run = await openRun(path, { resume: true, ...(settings && { settings, renew: true }) });
    assert.deepEqual(run.settings, { steps: kept });
    await run.close();
    assert.deepEqual(await storedSettings(path), { steps: kept });
  }
});

test('settings that are not JSON are refused, and the error names the file', async (t) => {
  const path = await temporaryFolder(t);
  await mkdir(join(path, 'r'));
  await writeFile(join(path, 'r', 'run.json'), '{');
  await assert.rejects(openRun(join(path, 'r'), { resume: true }), says('run.json', 'not JSON'));
  assert.deepEqual(await readdir(join(path, 'r')), ['run.json']);
});

test('if the disk is full during an event, no part of it stays, and the next one has its own line', async (t) => {
  const folder = await temporaryFolder(t),
    run = await openRun(join(folder, 'run'));
  run.append({ event: 'step', step: 1 });
  const real = fs.appendFileSync,
    full = ((file: number, data: Uint8Array) => {
      real(file, data.subarray(0, data.length >> 1));
      throw Object.assign(new Error('ENOSPC'), { code: 'ENOSPC' });
    }) as typeof real;
  t.after(() => {
    fs.appendFileSync = real;
    syncBuiltinESMExports();
  });
  fs.appendFileSync = full;
  syncBuiltinESMExports();
  assert.throws(() => {
    run.append({ event: 'step', step: 2 });
  }, /events\.jsonl: no space left/);
  fs.appendFileSync = real;
  syncBuiltinESMExports();
  run.append({ event: 'failed', step: 1 });
  await run.close();
  assert.equal(
    await readFile(join(folder, 'run', 'events.jsonl'), 'utf8'),
    '{"event":"step","step":1}\n{"event":"failed","step":1}\n',
  );
});
