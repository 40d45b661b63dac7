// Tests dynamoe train as a process: its JSON, its exit codes, what it refuses, how it stops and is resumed.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readdir, readFile, rename, unlink, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { loadCheckpoint } from '../../src/io/checkpoint-file.ts';
import { temporaryFolder } from '../io/folder.ts';
import type { TokenLogprob } from '../../src/session/generate.ts';
import { command, eventsOf, lossesOf, start, TINY, writeText, type Running } from './command.ts';

/** Waits until the run has printed step `n`. With n = 0: until the run has started. */
async function until({ output, ended }: Running, n: number): Promise<void> {
  if (n === 0)
    await new Promise((resolve) => {
      setTimeout(resolve, 300);
    });
  let over = n === 0;
  void ended.then(() => {
    over = true;
  });
  while (!over && !output().includes(`"event":"step","step":${n},`))
    await new Promise((resolve) => {
      setTimeout(resolve, 5);
    });
}

test('with --json, stdout has the documented events and nothing else', async (t) => {
  const folder = await temporaryFolder(t),
    data = await writeText(folder),
    out = join(folder, 'run');
  const { code, stdout, stderr } = await command(
    'train',
    ...TINY,
    '--data',
    data,
    '--steps',
    '6',
    '--eval-every',
    '3',
    '--seed',
    '7',
    '--out',
    out,
    '--json',
  );
  assert.equal(code, 0, stderr);
  const events = eventsOf(stdout),
    of = (kind: string) => events.filter((e) => e.event === kind);
  assert.equal(events[0].event, 'start');
  assert.deepEqual(
    of('step').map((e) => e.step),
    [1, 2, 3, 4, 5, 6],
  );
  for (const step of of('step')) {
    for (const key of ['loss', 'tokens_per_s', 'ms', 'grad_norm', 'lr']) assert.equal(typeof step[key], 'number', key);
    assert.deepEqual(Object.keys(step['aux'] as object).sort(), ['blocks.0.moe/balance', 'blocks.0.moe/z']);
    const load = (step['load'] as Record<string, number[]>)['blocks.0.moe'];
    assert.equal(
      load.reduce((a, b) => a + b, 0),
      4 * 16 * 2,
      'every token goes to two experts',
    );
  }
  assert.deepEqual(
    of('eval').map((e) => e.step),
    [3, 6],
  );
  const done = events.at(-1);
  assert.equal(done?.event, 'done');
  assert.equal(done.step, 6);
  assert.equal(done['val_loss'], of('eval')[1]['val_loss']);
  assert.deepEqual(Object.keys(done['peak_bytes'] as object), ['arena', 'params', 'optimiser', 'rss']);
  assert.ok(Object.values(done['peak_bytes'] as Record<string, number>).every((n) => n > 0));

  const measured = await command('eval', done['checkpoint'] as string, '--data', data, '--json');
  assert.equal(eventsOf(measured.stdout)[0]['val_loss'], done['val_loss'], measured.stderr);
  const elsewhere = await command('eval', out, '--json');
  assert.equal(
    eventsOf(elsewhere.stdout)[0]['val_loss'],
    done['val_loss'],
    'eval of a run folder uses the data of the run',
  );

  const text = async (...flags: string[]): Promise<string> =>
    (await command('generate', out, '--prompt', 'the ', '--tokens', '24', ...flags)).stdout;
  const one = await text('--temperature', '1', '--seed', '3');
  assert.ok(one.startsWith('the '));
  assert.equal(await text('--temperature', '1', '--seed', '3'), one);
  assert.notEqual(await text('--temperature', '1', '--seed', '4'), one);
  assert.equal(await text('--temperature', '1', '--top-k', '1', '--seed', '9'), await text('--temperature', '0'));
  const limits = ['--top-p', '0.9', '--min-p', '0.001', '--repetition-penalty', '1.1', '--seed', '3'],
    lines = (await text(...limits, '--logprobs', '2'))
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as TokenLogprob & { readonly text?: string }),
    shown = (count: number): string =>
      `the ${new TextDecoder().decode(Uint8Array.from(lines.slice(0, count), ({ token }) => token))}\n`;
  assert.equal(await text(...limits), shown(24));
  const end = lines.findIndex((line) => line.text !== undefined && line.text > ' ');
  assert.ok(end >= 0, 'a byte of ASCII was generated');
  assert.equal(
    await text(...limits, '--stop', 'a text that does not come', '--stop', lines[end].text ?? ''),
    shown(end),
  );
  for (const { logprob, top } of lines) assert.ok(top.length === 2 && top[0].logprob >= logprob && logprob <= 0);
});

test('a run that is killed by SIGKILL several times and resumed has the losses of an uninterrupted run', async (t) => {
  const folder = await temporaryFolder(t),
    data = await writeText(folder),
    steps = 300;
  const flags = (out: string) => [
    'train',
    ...TINY,
    '--data',
    data,
    '--steps',
    String(steps),
    '--eval-every',
    '50',
    '--save-every',
    '7',
    '--out',
    join(folder, out),
    '--json',
  ];
  const whole = await command(...flags('whole'));
  assert.equal(whole.code, 0, whole.stderr);
  const losses = new Map<number, unknown>();
  let kills = 0;
  for (const at of [0, 3, 50, 90, 140, 190, 230]) {
    const run = start(...flags('torn'), '--resume');
    await until(run, at);
    if (run.child.kill('SIGKILL')) kills++;
    const { stdout } = await run.ended;
    // The last line may be incomplete.
    for (const [step, loss] of lossesOf(stdout.slice(0, stdout.lastIndexOf('\n') + 1))) losses.set(step, loss);
  }
  const end = await command(...flags('torn'), '--resume');
  assert.equal(end.code, 0, end.stderr);
  for (const [step, loss] of lossesOf(end.stdout)) losses.set(step, loss);
  assert.ok(kills >= 5);
  assert.deepEqual(new Map([...losses].sort(([a], [b]) => a - b)), lossesOf(whole.stdout));
  assert.equal(eventsOf(end.stdout).at(-1)?.['val_loss'], eventsOf(whole.stdout).at(-1)?.['val_loss']);
});

test('an existing run is refused without --resume; with it, settings that differ are refused', async (t) => {
  const folder = await temporaryFolder(t),
    data = await writeText(folder),
    out = join(folder, 'run');
  const flags = ['train', ...TINY, '--data', data, '--steps', '2', '--out', out, '--json'];
  assert.equal((await command(...flags)).code, 0);
  const again = await command(...flags);
  assert.equal(again.code, 2);
  assert.match(again.stderr, /already holds a run\n {2}hint: add --resume/);
  const other = await command(...flags, '--resume', '--seed', '5');
  assert.equal(other.code, 2);
  assert.match(other.stderr, /seed 0, not 5/);
  const bare = await command('train', '--resume', '--out', out, '--json');
  assert.equal(bare.code, 0, bare.stderr);
  assert.deepEqual(
    eventsOf(bare.stdout).map((e) => e.event),
    ['start', 'done'],
  );
  const fewer = await command('train', '--resume', '--out', out, '--steps', '1');
  assert.equal(fewer.code, 2);
  assert.match(fewer.stderr, /has done 2 steps, more than the 1 it should have/);
  const wider = await command('train', '--resume', '--out', out, '--experts', '2', '--top-k', '1');
  assert.match(wider.stderr, /started with model\.moe\.\w+ \d+, not \d+\n/);
  const config = join(folder, 'other.json');
  await writeFile(config, '{ "steps": 3 }');
  const ignored = await command('train', config, '--resume', '--out', out);
  assert.equal(ignored.code, 2);
  assert.match(ignored.stderr, /other\.json has no effect here: the run was not started with a config file/);
  const absent = await command('eval', out, '--data', join(folder, 'absent'));
  assert.equal(absent.code, 1);
  assert.match(absent.stderr, /data path .*absent does not exist/);
  await writeFile(data, 'other text '.repeat(2000));
  const changed = await command('train', '--resume', '--out', out);
  assert.equal(changed.code, 1);
  assert.match(changed.stderr, /the data in \S+text\.txt is not what the run in \S+run was started with: it was /);
  assert.match(changed.stderr, /was 20\d{3} bytes of text in 1 file and is 22000 bytes of text in 1 file\n {2}hint: /);
});

test('a resumed run remembers its steps and other settings, also those of an earlier --resume', async (t) => {
  const folder = await temporaryFolder(t),
    data = await writeText(folder),
    out = join(folder, 'run'),
    first = join(out, 'step-00000003.safetensors');
  const flags = ['train', '--resume', '--out', out, '--json'];
  const begun = ['train', ...TINY, '--data', data, '--steps', '6', '--save-every', '3', '--out', out, '--json'];
  assert.equal((await command(...begun)).code, 0);
  await unlink(join(out, 'step-00000006.safetensors')); // as if the run had been killed after step 3
  const again = await command(...flags);
  assert.deepEqual([...lossesOf(again.stdout).keys()], [4, 5, 6]);
  const more = await command(...flags, '--steps', '12', '--keep', 'best,last');
  assert.match(more.stderr, /set to 6 steps and goes on to 12; the learning-rate schedule uses the new number/);
  await unlink(join(out, 'step-00000012.safetensors'));
  await assert.rejects(readFile(first));
  const { code, stdout, stderr } = await command(...flags);
  assert.equal(code, 0, stderr);
  const [begins] = eventsOf(stdout);
  assert.deepEqual([begins['steps'], begins['resumed_from']], [12, 9]);
  assert.equal((begins['config'] as { keep?: string }).keep, 'best,last');
  assert.deepEqual([...lossesOf(stdout)], [...lossesOf(more.stdout)].slice(3));
  const fewer = await command(...flags, '--steps', '5');
  assert.match(fewer.stderr, /has done 12 steps, more than the 5/);
  assert.equal(eventsOf((await command(...flags)).stdout)[0]['steps'], 12, 'a refused command changes no settings');
});

test('a run is resumed if its data has moved, not if it has changed; a refused run keeps its log', async (t) => {
  const folder = await temporaryFolder(t),
    here = join(folder, 'here'),
    there = join(folder, 'there dir'),
    out = join(folder, 'run');
  await mkdir(here);
  const text = await writeText(here),
    flags = ['train', ...TINY, '--json', '--save-every', '4', '--eval-every', '0'];
  const whole = await command(...flags, '--data', here, '--steps', '10', '--out', join(folder, 'whole'));
  assert.equal((await command(...flags, '--data', here, '--steps', '10', '--out', out)).code, 0);
  await unlink(join(out, 'step-00000010.safetensors'));
  const log = await readFile(join(out, 'events.jsonl'), 'utf8'),
    before = await readFile(text, 'utf8');
  assert.match(log, /"event":"step","step":10,/);
  await rename(here, there);
  const gone = await command('train', '--resume', '--out', out);
  assert.equal(gone.code, 1);
  assert.match(
    gone.stderr,
    /data path \S+here does not exist\n {2}hint: .*if the data has moved, name where it is now/,
  );
  await writeFile(join(there, 'text.txt'), before.replace('the', 'teh'));
  const changed = await command('train', '--resume', '--out', out, '--data', there);
  assert.equal(changed.code, 1);
  assert.match(changed.stderr, /it has the same size, 20\d{3} bytes of text in 1 file, but its contents/);
  assert.equal(await readFile(join(out, 'events.jsonl'), 'utf8'), log, 'the log is unchanged');
  await writeFile(join(there, 'text.txt'), before);
  const moved = await command('train', '--resume', '--out', out, '--data', there, '--json');
  assert.equal(moved.code, 0, moved.stderr);
  const losses = lossesOf(moved.stdout);
  assert.deepEqual([...losses], [...lossesOf(whole.stdout)].slice(8));
});

test('Ctrl-C finishes the step, saves, prints how to continue, and exits with 130', async (t) => {
  const folder = await temporaryFolder(t),
    data = await writeText(folder),
    out = join(folder, 'run');
  const run = start('train', ...TINY, '--data', data, '--steps', '100000', '--out', out, '--json');
  await until(run, 3);
  run.child.kill('SIGINT');
  const { code, stdout, stderr } = await run.ended;
  assert.equal(code, 130, stderr);
  const stopped = eventsOf(stdout).at(-1);
  assert.equal(stopped?.event, 'stopped');
  assert.match(stderr, /dynamoe train --resume --out/);
  assert.ok((await readdir(out)).includes(`step-${String(stopped.step).padStart(8, '0')}.safetensors`));
});

for (const [signal, code] of [
  ['SIGTERM', 143],
  ['SIGHUP', 129],
] as const) {
  test(
    `${signal} finishes the step and saves, and the run can be resumed from there`,
    { skip: process.platform === 'win32' && 'needs signals' },
    async (t) => {
      const folder = await temporaryFolder(t),
        data = await writeText(folder),
        out = join(folder, 'run'),
        flags = ['--steps', '100000', '--save-every', '0', '--out', out, '--json'];
      const run = start('train', ...TINY, '--data', data, ...flags);
      await until(run, 3);
      run.child.kill(signal);
      // A terminal that is closed sends SIGHUP more than once.
      if (signal === 'SIGHUP')
        for (const ms of [1, 400])
          setTimeout(() => {
            run.child.kill(signal);
          }, ms);
      const { code: ended, stdout, stderr } = await run.ended;
      assert.equal(ended, code, stderr);
      const stopped = eventsOf(stdout).at(-1);
      assert.equal(stopped?.event, 'stopped');
      assert.deepEqual(
        (await readdir(out)).filter((name) => name.startsWith('step-')),
        [`step-${String(stopped.step).padStart(8, '0')}.safetensors`],
      );
      assert.deepEqual(
        (await readdir(out)).filter((name) => name.startsWith('lock') || name.endsWith('.tmp')),
        [],
      );
      const again = await command('train', '--resume', '--out', out, '--steps', String(stopped.step + 1), '--json');
      assert.equal(again.code, 0, again.stderr);
      assert.deepEqual(
        eventsOf(again.stdout)
          .filter((e) => e.event === 'step')
          .map((e) => e.step),
        [stopped.step + 1],
      );
    },
  );
}

test(
  'a run can be resumed after signals at any moment, also while a checkpoint is written',
  { skip: process.platform === 'win32' && 'needs signals' },
  async (t) => {
    const folder = await temporaryFolder(t),
      data = await writeText(folder),
      out = join(folder, 'run');
    let last = 0;
    for (const [i, signals] of [
      ['SIGTERM'],
      ['SIGHUP', 'SIGTERM'],
      ['SIGINT', 'SIGINT'],
      ['SIGTERM', 'SIGKILL'],
    ].entries()) {
      const run = start(
        'train',
        ...TINY,
        '--data',
        data,
        '--steps',
        '100000',
        '--save-every',
        '1',
        '--out',
        out,
        '--json',
        ...(i > 0 ? ['--resume'] : []),
      );
      await until(run, last + 3);
      for (const signal of signals) {
        run.child.kill(signal as NodeJS.Signals);
        await new Promise((resolve) => {
          setTimeout(resolve, 350);
        });
      }
      const { code, stdout, stderr } = await run.ended;
      assert.ok(code === null || code > 128, `${signals.join()}: ${code} ${stderr}`);
      last =
        eventsOf(stdout.slice(0, stdout.lastIndexOf('\n') + 1))
          .filter((e) => e.event === 'checkpoint')
          .at(-1)?.step ?? last;
    }
    const end = await command('train', '--resume', '--out', out, '--steps', String(last + 5), '--json');
    assert.equal(end.code, 0, end.stderr);
    assert.equal(eventsOf(end.stdout).at(-1)?.event, 'done');
  },
);

test('a second Ctrl-C stops at once', async (t) => {
  const folder = await temporaryFolder(t),
    data = await writeText(folder, 2_000_000),
    out = join(folder, 'run');
  const run = start('train', ...TINY, '--data', data, '--steps', '100000', '--out', out, '--json');
  await until(run, 3);
  run.child.kill('SIGINT');
  await new Promise((resolve) => {
    setTimeout(resolve, 2);
  });
  run.child.kill('SIGINT');
  assert.equal((await run.ended).code, 130);
});

test('a loss that is not finite commits nothing and names step, op and last good checkpoint', async (t) => {
  const folder = await temporaryFolder(t),
    data = await writeText(folder),
    out = join(folder, 'run'),
    config = join(folder, 'config.json');
  await writeFile(config, JSON.stringify({ optimizer: { name: 'sgd', lr: 1e30, schedule: 'constant' }, steps: 20 }));
  const { code, stdout, stderr } = await command('train', config, ...TINY, '--data', data, '--out', out, '--json');
  assert.equal(code, 1);
  assert.match(stderr, /step \d+: the (loss|gradient) is not finite; first produced by \w+/);
  assert.match(stderr, /last good checkpoint is .*step-\d+\.safetensors/);
  assert.doesNotMatch(stderr, /\n\s+at /);
  const steps = eventsOf(stdout).filter((e) => e.event === 'step');
  const [, file] = /(step-\d+\.safetensors)/.exec(stderr) ?? [];
  assert.equal(Number(/\d+/.exec(file)?.[0]), steps.at(-1)?.step, 'the checkpoint is that of the last finished step');
});

test('a good checkpoint has only finite values, with any learning rate', async (t) => {
  const folder = await temporaryFolder(t),
    data = await writeText(folder),
    config = join(folder, 'config.json');
  for (const [name, lr, saveEvery] of [
    ['sgd', 3e38, 1],
    ['sgd', 1e36, 0],
    ['adamW', 3e37, 1],
  ] as const) {
    const out = join(folder, `${name} ${lr} ${saveEvery}`);
    await writeFile(
      config,
      JSON.stringify({ optimizer: { name, lr, schedule: 'constant', warmup: 0 }, steps: 20, saveEvery, evalEvery: 0 }),
    );
    const { code, stderr } = await command('train', config, ...TINY, '--data', data, '--out', out);
    assert.equal(code, 1, stderr);
    assert.match(stderr, /not finite.*(last good checkpoint is .*step-\d+\.safetensors|there is no good checkpoint)/s);
    for (const file of (await readdir(out)).filter((f) => f.endsWith('.safetensors'))) {
      const { file: opened } = await loadCheckpoint(join(out, file));
      for (const tensor of opened.tensors.keys())
        assert.ok((await opened.read(tensor)).data.every(Number.isFinite), `${out}/${file}: ${tensor}`);
      await opened.close();
    }
    const named = /last good checkpoint is (.*\.safetensors)/.exec(stderr)?.[1];
    if (named !== undefined) assert.ok((await readdir(out)).includes(basename(named)), stderr);
    assert.deepEqual(
      (await readdir(out)).filter((f) => f.endsWith('.tmp')),
      [],
    );
  }
});

test(
  'a run folder may have any name: messages show it in one line, and the printed command continues the run',
  { skip: process.platform === 'win32' && 'needs a POSIX shell' },
  async (t) => {
    const folder = await temporaryFolder(t),
      data = await writeText(folder);
    const node = [
      process.execPath,
      '--conditions=dynamoe-source',
      fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url)),
    ];
    for (const name of ["it's a run", '-x', 'two\nlines ü', 'r'.repeat(240)]) {
      const child = spawn(
        node[0],
        [...node.slice(1), 'train', ...TINY, '--data', data, '--steps', '100000', `--out=${name}`],
        { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] },
      );
      let said = '',
        shown = '',
        asked = false;
      child.stderr.setEncoding('utf8').on('data', (text: string) => {
        said += text;
      });
      child.stdout.setEncoding('utf8').on('data', (text: string) => {
        shown += text;
        if (!asked && /^step /m.test(shown)) asked = child.kill('SIGTERM');
      });
      const [code] = (await once(child, 'close')) as [number];
      assert.equal(code, 143, said);
      assert.match(shown, /^100000 steps, run folder .+$/m);
      const line = /to continue: dynamoe (.*)\n$/s.exec(said)?.[1] ?? '',
        step = Number(/step-0*(\d+)/.exec((await readdir(join(folder, name))).join())?.[1]);
      const again = spawnSync('sh', ['-c', `"$@" ${line} --steps ${step + 1}`, 'sh', ...node], {
        cwd: folder,
        encoding: 'utf8',
      });
      assert.equal(again.status, 0, `${line}: ${again.stderr}`);
      assert.match(again.stdout, /^done in /m);
    }
  },
);

test('1 and 2 threads give the same losses, bit for bit', async (t) => {
  const folder = await temporaryFolder(t),
    data = await writeText(folder);
  const run = (threads: string) =>
    command(
      'train',
      ...TINY,
      '--data',
      data,
      '--steps',
      '12',
      '--threads',
      threads,
      '--out',
      join(folder, threads),
      '--json',
    );
  const one = lossesOf((await run('1')).stdout);
  assert.equal(one.size, 12);
  assert.deepEqual(one, lossesOf((await run('2')).stdout));
});

test('plain lines are printed to a pipe', async (t) => {
  const folder = await temporaryFolder(t),
    data = await writeText(folder);
  const { code, stdout } = await command(
    'train',
    ...TINY,
    '--data',
    data,
    '--steps',
    '3',
    '--out',
    join(folder, 'run'),
  );
  assert.equal(code, 0);
  assert.match(stdout, /^step 2\/3 {2}loss \d\.\d+ {2}.* tokens\/s/m);
  assert.doesNotMatch(stdout, /\x1b/);
});
