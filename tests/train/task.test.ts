// Questions of a task: what is right is counted as by hand, prompts are cut, and bad questions are refused before work.
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { crossEntropy } from '../../src/nn/loss.ts';
import { TransformerLM } from '../../src/nn/transformer.ts';
import { adamW } from '../../src/optim/adam.ts';
import { generate } from '../../src/session/generate.ts';
import { logLikelihoods } from '../../src/session/likelihood.ts';
import { compile } from '../../src/session/node.ts';
import type { Session } from '../../src/session/session.ts';
import { hostTensor } from '../../src/base/tensor.ts';
import { compareTasks, evaluateTask, type TaskResult } from '../../src/train/task.ts';
import { readTask, type Question } from '../../src/train/task-file.ts';
import { temporaryFolder } from '../io/folder.ts';

const bytes = (text: string): number[] => [...new TextEncoder().encode(text)];

/** A model of bytes that has learned to repeat "abc abc ..." for `steps` steps. */
async function learned(steps: number, context = 16): Promise<Session> {
  const model = new TransformerLM({ vocab: 256, dModel: 16, layers: 1, heads: 2, context }),
    session = await compile(model, { loss: crossEntropy, optimizer: adamW({ lr: 0.02 }), device: 'wasm', threads: 1 });
  for (let step = 0; step < steps; step++) {
    const text = bytes('abc '.repeat(8)).slice(step % 4),
      of = (from: number) => hostTensor('int32', [1, 16], Int32Array.from(text.slice(from, from + 16)));
    await session.step({ x: of(0), y: of(1) });
  }
  return session;
}

const QUESTIONS: Question[] = [
  { prompt: 'abc a', choices: ['zz', 'bc', 'cb'], answer: 1 },
  { prompt: 'abc abc abc abc abc a', choices: ['b', 'c'], answer: 0 },
  { prompt: 'abc ', choices: ['abc', 'cba'], answer: 1 }, // wrong on purpose
  { prompt: 'abc ', choices: ['a', 'abc abc abc '], answer: 1 },
  { prompt: 'abc a', target: 'bc', stop: ['\n', ' '] },
  { prompt: 'abc a', target: 'b', stop: [' '] }, // goes on with c
  { prompt: 'abc a', target: 'bc a', stop: ['\n'] }, // no end comes
  { prompt: 'abc a', target: 'bc ab' },
  { prompt: 'abc abc abc abc abc a', target: 'bc ', stop: ['abc'] },
];

test('right answers are those that log-likelihoods and generated texts give', async () => {
  await using session = await learned(80);
  const shares: number[] = [],
    found = (await evaluateTask(session, QUESTIONS, { progress: (share) => shares.push(share) }))!;
  assert.deepEqual(
    shares,
    [1, 2, 3, 4, 5, 6, 7, 8, 9].map((n) => n / 9),
  );
  for (const [i, question] of QUESTIONS.entries()) {
    const { right, logLikelihoods: given } = found.answers[i];
    if ('choices' in question) {
      const values = await logLikelihoods(session, bytes(question.prompt), question.choices.map(bytes)),
        best = (of: readonly number[]): boolean => of.every((v) => v <= of[question.answer]);
      assert.deepEqual(given, values);
      assert.equal(right.acc, best(values));
      assert.equal(right.acc_norm, best(values.map((v, c) => v / question.choices[c].length)));
    }
  }
  // By total log-likelihood the short choice of question 3 wins; per byte the long one, of which all bytes are sure.
  assert.deepEqual(
    found.answers.map(({ right }) => Object.values(right).join()),
    ['true,true', 'true,true', 'false,false', 'false,true', 'true', 'false', 'false', 'true', 'true'],
  );
  const { acc, acc_norm: norm, exact_match: exact } = found.measures;
  assert.deepEqual(
    [acc, norm, exact].map((m) => [m!.right, m!.questions]),
    [
      [2, 4],
      [3, 4],
      [3, 5],
    ],
  );
  assert.deepEqual(
    found.answers.map((a) => a.cut),
    QUESTIONS.map((_, i) => [1, 8].includes(i)),
  );
  assert.equal(found.cut, 2);
});

test('a prompt is cut so that the answer fits: the text is that of the cut prompt', async () => {
  await using session = await learned(80);
  const long = `${'x'.repeat(30)}abc abc a`,
    [target, stop] = ['bc ', 'ab'];
  const made: number[] = [];
  for await (const t of generate(session, bytes(long).slice(-(17 - 5)), { tokens: 3, temperature: 0 })) made.push(t);
  const found = (await evaluateTask(session, [{ prompt: long, target, stop: [stop] }]))!;
  assert.equal(found.answers[0].right.exact_match, new TextDecoder().decode(Uint8Array.from(made)) === target);
  assert.equal(found.cut, 1);
});

test('two results are compared question by question', async () => {
  await using a = await learned(0);
  await using b = await learned(80);
  const of = async (session: Session): Promise<TaskResult> => (await evaluateTask(session, QUESTIONS))!;
  const [first, second] = [await of(a), await of(b)],
    compared = compareTasks(first, second);
  for (const name of ['acc', 'acc_norm', 'exact_match'] as const) {
    const { value, low, high, both, onlyA, onlyB, neither } = compared[name]!,
      [x, y] = [first.measures[name]!, second.measures[name]!];
    assert.equal(both + onlyA, x.right);
    assert.equal(both + onlyB, y.right);
    assert.equal(both + onlyA + onlyB + neither, x.questions);
    assert.ok(Math.abs(value - (y.value - x.value)) < 1e-12 && low <= value && value <= high);
  }
  assert.ok(compared.exact_match!.onlyB >= 2);
  assert.throws(
    () => compareTasks(first, { ...second, answers: second.answers.slice(1) }),
    /not of the same questions/,
  );
  assert.equal(await evaluateTask(b, QUESTIONS, { stops: () => true }), null);
});

test('tokens of a caller; and questions that a model cannot read are refused before any work', async () => {
  const model = new TransformerLM({ vocab: 5, dModel: 8, layers: 1, heads: 1, context: 4 });
  await using session = await compile(model, { loss: crossEntropy, device: 'wasm', threads: 1 });
  const encode = (text: string): number[] => Array.from(text, Number),
    question = { prompt: '01', choices: ['2', '34'], answer: 0 },
    found = (await evaluateTask(session, [question], { encode }))!;
  assert.deepEqual(found.answers[0].logLikelihoods, await logLikelihoods(session, [0, 1], [[2], [3, 4]]));
  const refused = (bad: unknown, pattern: RegExp): Promise<void> =>
    assert.rejects(
      evaluateTask(session, [question, bad as Question], {
        encode,
        progress: () => assert.fail('work was done'),
      }),
      pattern,
    );
  await refused({ ...question, prompt: '07' }, /question 1 holds token 7, and the model knows 0\.\.4/);
  await refused({ ...question, prompt: '' }, /question 1: the prompt is empty/);
  await refused({ ...question, choices: ['1', '01234'] }, /question 1: a choice has 5 tokens, and the context .* is 4/);
  await refused({ prompt: '0', target: '123', stop: ['44'] }, /question 1: the target with its stop has 5 tokens/);
  await refused({ ...question, answer: 2 }, /question 1: answer must be a whole number from 0 to 1, got 2/);
});

async function file(t: TestContext, text: string): Promise<string> {
  const path = join(await temporaryFolder(t), 'q.jsonl');
  await writeFile(path, text);
  return path;
}

test('a bad line is refused with its file and number, and so is an empty file', async (t) => {
  const good = '{"prompt": "a", "choices": ["b", "c"], "answer": 1}';
  const [read] = await readTask(await file(t, good));
  assert.match(read.where!, /q\.jsonl:1$/);
  await assert.rejects(readTask(await file(t, '')), /q\.jsonl is empty/);
  for (const [line, pattern] of [
    ['', /q\.jsonl:2 is empty/],
    ['{"prompt"', /q\.jsonl:2 is not JSON/],
    ['[1]', /q\.jsonl:2 must be an object, got a list/],
    ['{"prompt": "a"}', /q\.jsonl:2: a question needs "choices" and "answer", or "target"/],
    ['{"prompt": "a", "choices": ["b", "c"], "anwser": 1}', /q\.jsonl:2: unknown key "anwser".*did you mean "answer"/s],
    ['{"prompt": "a", "choices": ["b", "c"], "answer": 1, "target": "b"}', /q\.jsonl:2: unknown key "target"/],
    ['{"prompt": 1, "choices": ["b", "c"], "answer": 1}', /q\.jsonl:2: prompt must be a text, got 1/],
    ['{"prompt": "a", "choices": ["b"], "answer": 0}', /q\.jsonl:2: choices must be a list of at least 2/],
    ['{"prompt": "a", "choices": ["b", ""], "answer": 0}', /q\.jsonl:2: choices must be a list/],
    ['{"prompt": "a", "choices": ["b", "c"]}', /q\.jsonl:2: answer must be a whole number from 0 to 1/],
    ['{"prompt": "a", "choices": ["b", "c"], "answer": 1.5}', /q\.jsonl:2: answer must .* got 1\.5/],
    ['{"prompt": "a", "target": ""}', /q\.jsonl:2: target must be a text that is not empty/],
    ['{"prompt": "a", "target": "b", "stop": "\\n"}', /q\.jsonl:2: stop must be a list of texts/],
    ['{"prompt": "a", "target": "b c", "stop": [" "]}', /q\.jsonl:2: target holds " ", which is in stop/],
  ] as const)
    await assert.rejects(readTask(await file(t, `${good}\n${line}\n${good}\n`)), pattern, line);
});
