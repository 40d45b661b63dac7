// dynamoe eval --task as a process: the example's questions, one checkpoint and two, tables and JSON, and refusals.
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { temporaryFolder } from '../io/folder.ts';
import { command, eventsOf, TINY, writeText, type Ended } from './command.ts';

const task = fileURLToPath(new URL('../../examples/task.jsonl', import.meta.url));

interface Shares {
  readonly right: number;
  readonly questions: number;
  readonly value: number;
}

test('questions of the example: a model learns to answer them, and two checkpoints are compared', async (t) => {
  const folder = await temporaryFolder(t),
    data = await writeText(folder),
    [short, long, wide] = ['short', 'long', 'wide'].map((name) => join(folder, name));
  const ok = async (...args: readonly string[]): Promise<Ended> => {
    const ended = await command(...args);
    assert.equal(ended.code, 0, ended.stderr);
    return ended;
  };
  const train = (out: string, steps: number, ...more: readonly string[]): Promise<Ended> =>
    ok(
      'train',
      ...TINY,
      '--lr',
      '0.01',
      ...more,
      '--data',
      data,
      '--steps',
      `${steps}`,
      '--eval-every',
      '0',
      '--out',
      out,
    );
  await train(short, 1);
  await train(long, 400);

  const one = await ok('eval', long, '--task', task, '--json'),
    events = eventsOf(one.stdout),
    found = events.at(-1)!,
    shares = found['measures'] as Record<string, Shares>;
  assert.deepEqual([found.event, found.step, found['questions'], found['cut']], ['task', 400, 12, 2]);
  assert.match(
    one.stderr,
    /2 of 12 prompts do not fit into the context of 16 tokens.*task\.jsonl:1, .*task\.jsonl:8\n/,
  );
  const answers = events.filter((e) => e.event === 'answer');
  assert.equal(answers.length, 12);
  assert.match(answers[2]['question'] as string, /task\.jsonl:3$/);
  assert.equal((answers[2]['log_likelihoods'] as number[]).length, 3);
  for (const [name, questions] of [
    ['acc', 8],
    ['acc_norm', 8],
    ['exact_match', 4],
  ] as const) {
    const share = shares[name];
    assert.deepEqual([share.questions, share.value], [questions, share.right / questions]);
    assert.equal(share.right, answers.filter((a) => a[name] === true).length);
  }
  assert.ok(shares['acc'].right >= 7 && shares['exact_match'].right >= 3, JSON.stringify(shares));

  const both = eventsOf((await ok('eval', short, long, '--task', task, '--json')).stdout),
    [a, b] = both.filter((e) => e.event === 'task'),
    compared = (both.at(-1)!['measures'] as Record<string, Record<string, number>>)['exact_match'];
  assert.deepEqual(b['measures'], found['measures'], 'the second checkpoint has the values that it has alone');
  const [x, y] = [a, b].map((e) => (e['measures'] as Record<string, Shares>)['exact_match'].right);
  assert.equal(compared['difference'], (y - x) / 4);
  assert.equal(compared['only_b'] - compared['only_a'], y - x);
  assert.ok(compared['low'] <= compared['difference'] && compared['difference'] <= compared['high']);

  const { stdout } = await ok('eval', short, long, '--task', task);
  assert.match(stdout, /^12 questions of .*task\.jsonl\nA: .*step 1\nB: .*step 400\n/);
  assert.match(stdout, /\nmeasure +of +right +questions +% +95% interval\nacc +A +\d+ +8 +[\d.]+ +[\d.]+ to [\d.]+\n/);
  assert.match(stdout, /\nmeasure +B - A +95% interval +only A right +only B right +both +neither\nacc /);
  assert.doesNotMatch((await ok('eval', long, '--task', task)).stdout, /only A right/);

  // Refused: nothing on stdout, one line and a hint.
  const refused = async (code: number, pattern: RegExp, ...args: readonly string[]): Promise<void> => {
    const ended = await command('eval', ...args);
    assert.equal(ended.code, code, ended.stderr);
    assert.match(ended.stderr, pattern);
    assert.equal(ended.stdout, '');
  };
  const bad = join(folder, 'bad.jsonl'),
    empty = join(folder, 'empty.jsonl'),
    tooLong = join(folder, 'long.jsonl');
  await writeFile(bad, '{"prompt": "a", "target": "b"}\n{"prompt": "a", "choices": ["b", "c"], "answer": 2}\n');
  await writeFile(empty, '');
  await writeFile(tooLong, `{"prompt": "a", "choices": ["b", "${'c'.repeat(17)}"], "answer": 0}\n`);
  await refused(1, /bad\.jsonl:2: answer must be a whole number from 0 to 1, got 2/, long, '--task', bad);
  await refused(1, /empty\.jsonl is empty/, long, '--task', empty);
  await refused(
    1,
    /long\.jsonl:1: a choice has 17 tokens, and the context of the model is 16/,
    long,
    '--task',
    tooLong,
  );
  await refused(1, /none\.jsonl/, long, '--task', join(folder, 'none.jsonl'));
  await refused(2, /second checkpoint is compared by the questions of a task/, short, long);
  await refused(2, /--data has no effect here: a task has its own questions/, long, '--task', task, '--data', data);

  const config = join(folder, 'wide.json');
  await writeFile(
    config,
    JSON.stringify({ model: { vocab: 300, dModel: 16, layers: 1, heads: 2, context: 16 }, steps: 1, evalEvery: 0 }),
  );
  await ok('train', config, '--data', data, '--out', wide);
  await refused(1, /different tokens: vocabularies of 256 and 300/, long, wide, '--task', task);
});
