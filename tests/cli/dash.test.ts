// Tests dynamoe dash, and the files that a run writes for other programs.
import assert from 'node:assert/strict';
import { readdir, readFile, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { runFolder, startAt, steps } from '../dash/events.ts';
import { temporaryFolder } from '../io/folder.ts';
import { command, eventsOf, start, TINY, writeText } from './command.ts';

/** The first URL that a process prints. */
function urlOf({ child, ended }: ReturnType<typeof start>): Promise<string> {
  return new Promise((resolve, reject) => {
    for (const stream of [child.stdout, child.stderr])
      stream?.on('data', (text: string) => {
        const [url] = /http:\/\/\S+/.exec(text) ?? [];
        if (url) resolve(url);
      });
    void ended.then(({ stderr }) => {
      reject(new Error(stderr));
    });
  });
}

test('a run, or all runs of a folder, are served until Ctrl-C', async (t) => {
  const parent = await temporaryFolder(t);
  for (const name of ['a', 'b']) runFolder(parent, name, [startAt(), ...steps(1, 5)]);
  await mkdir(join(parent, 'no run'));
  for (const [path, runs] of [
    [join(parent, 'a'), ['a']],
    [parent, ['a', 'b']],
  ] as const) {
    const served = start('dash', path),
      url = await urlOf(served);
    assert.match(url, /^http:\/\/127\.0\.0\.1:\d+\/[\w-]{22}\/$/);
    assert.deepEqual(((await (await fetch(`${url}runs`)).json()) as string[]).sort(), runs);
    assert.match(await (await fetch(url)).text(), /<title>DynaMoE<\/title>/);
    served.child.kill('SIGINT');
    assert.equal((await served.ended).code, 130);
  }
});

test('a path that is not a run, and a port that is not valid, are named in the error', async (t) => {
  const folder = await temporaryFolder(t);
  const empty = await command('dash', folder);
  assert.equal(empty.code, 1);
  assert.match(empty.stderr, /contains no run: there is no events\.jsonl in it\n {2}hint: /);
  assert.match((await command('dash', join(folder, 'nowhere'))).stderr, /there is no folder .*nowhere\n {2}hint: /);
  assert.match(
    (await command('train', '--dash', 'examples/recompile.json')).stderr,
    /expected a port; a config file goes before --dash/,
  );
  assert.match((await command('dash', folder, '--port', '70000')).stderr, /whole number from 1 to 65535/);
});

test('the log of a run contains all events that --json prints; the page ends with the run', async (t) => {
  const folder = await temporaryFolder(t),
    data = await writeText(folder),
    out = join(folder, 'run');
  const flags = (...more: string[]): string[] => [
    'train',
    ...TINY,
    '--data',
    data,
    '--out',
    out,
    '--json',
    '--dash',
    '--no-auth',
    '--tensorboard',
    ...more,
  ];
  const { code, stdout, stderr } = await command(...flags('--steps', '8', '--eval-every', '4', '--save-every', '6'));
  assert.equal(code, 0, stderr);
  assert.match(stderr, /watch it on http:\/\/127\.0\.0\.1:\d+\/\n/);
  assert.equal(await readFile(join(out, 'events.jsonl'), 'utf8'), stdout);
  const events = eventsOf(stdout),
    times = events.map((e) => e['time'] as number);
  assert.deepEqual(
    events.map((e) => (e.event === 'start' ? 'start' : `${e.event} ${e.step}`)),
    [
      'start',
      'step 1',
      'plan 1',
      'step 2',
      'step 3',
      'step 4',
      'eval 4',
      'step 5',
      'step 6',
      'checkpoint 6',
      'step 7',
      'step 8',
      'eval 8',
      'checkpoint 8',
      'done 8',
    ],
  );
  assert.deepEqual(
    times,
    [...times].sort((a, b) => a - b),
  );
  const step = events[1],
    layer = (step['layers'] as Record<string, Record<string, number>>)['blocks.0.moe'];
  assert.ok(
    layer['gate_entropy'] > 0 && layer['gate_entropy'] <= Math.log(4) + 1e-6,
    'above 0 (always one expert), at most ln 4 (four experts with equal chances)',
  );
  assert.ok(Number(step['rss']) > 1e7);
  const plan = events[2] as unknown as {
    bytes: { arena: number };
    layers: Record<string, Record<string, unknown>>;
    program: { names: string[]; arena: number[][]; steps: number[][] };
  };
  const { topK, capacity, dispatch, frozen } = plan.layers['blocks.0.moe'];
  assert.deepEqual(
    { topK, capacity, dispatch, frozen },
    { topK: 2, capacity: 'dropless', dispatch: 'ragged', frozen: undefined },
  );
  for (const [offset, bytes, first, last, name] of plan.program.arena) {
    assert.ok(
      offset >= 0 &&
        offset + bytes <= plan.bytes.arena &&
        first <= last &&
        last < plan.program.steps.length &&
        plan.program.names[name],
    );
  }
  assert.ok(plan.program.steps.reduce((n, s) => n + s[3], 0) > 0, 'kernels were timed');

  // The resumed run appends to the same log: a second `start` event, and the plan once more.
  const more = await command(...flags('--steps', '8', '--resume'));
  assert.equal(more.code, 0, more.stderr);
  assert.equal(await readFile(join(out, 'events.jsonl'), 'utf8'), stdout + more.stdout);
  assert.equal((await readdir(join(out, 'tensorboard'))).length, 2);
});

test('measuring the plan does not change the losses of the run', async (t) => {
  const folder = await temporaryFolder(t),
    data = await writeText(folder);
  const { stdout } = await command(
    'train',
    ...TINY,
    '--data',
    data,
    '--steps',
    '6',
    '--out',
    join(folder, 'run'),
    '--json',
    '--accumulate',
    '2',
  );
  const { compile, loss, nn, optim } = await import('../../src/node.ts');
  const { text } = await import('../../src/data.ts');
  const model = new nn.TransformerLM({
    vocab: 256,
    layers: 1,
    dModel: 16,
    heads: 2,
    context: 16,
    moe: { experts: 4, topK: 2, hidden: 16 },
  });
  const session = await compile(model, {
    loss: loss.crossEntropy,
    accumulate: 2,
    seed: 0,
    say: () => undefined,
    optimizer: optim.adamW({ lr: optim.warmupCosine({ peak: 3e-3, warmup: 1, total: 6, floor: 0.05 * 3e-3 }) }),
  });
  try {
    const losses: number[] = [];
    for await (const batch of text([data]).batches({ size: 4, context: 16, seed: 0, limit: 6 }))
      losses.push((await session.step(batch)).loss);
    assert.deepEqual(
      eventsOf(stdout)
        .filter((e) => e.event === 'step')
        .map((e) => e['loss']),
      losses,
    );
  } finally {
    await session.close();
  }
});
