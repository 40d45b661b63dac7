// Generation with a cache: the same logits, bit for bit, as the whole sequence gives, and sampling that keeps its promises.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { crossEntropy } from '../../src/nn/loss.ts';
import { sgd } from '../../src/optim/sgd.ts';
import { generate } from '../../src/session/generate.ts';
import { compile } from '../../src/session/node.ts';
import { hostTensor } from '../../src/base/tensor.ts';
import { call } from '../../src/trace/trace.ts';
import { toyBatch, toyLM } from '../support/toy.ts';

const take = async (tokens: AsyncGenerator<number>): Promise<number[]> => {
  const list: number[] = [];
  for await (const t of tokens) list.push(t);
  return list;
};

for (const [name, options] of Object.entries({ 'as many heads of keys': {}, 'fewer heads of keys': { heads: 4, kvHeads: 2 }, 'one head of keys': { heads: 4, kvHeads: 1 } })) {
  test(`cached steps give the bits of the whole sequence: ${name}`, async () => {
    const model = toyLM(options);
    await using session = await compile(model, { loss: crossEntropy, optimizer: sgd({ lr: 0.1 }) });
    for (let i = 0; i < 3; i++) await session.step(toyBatch(i));
    const { x } = toyBatch(9, 1);
    const whole = await session.predict(x);
    const rows: Float32Array[] = [];
    for (let t = 0; t < 12; t++) {
      const out = await session.runGraph('one', (trace) => {
        const input = trace.input('input', 'tokens', { dtype: 'int32', shape: [1, 1] });
        trace.output('logits', call(model, input, { position: trace.scalar('position', 'int32') }));
      }, { tokens: Int32Array.of(x.data[t]), position: Int32Array.of(t) });
      rows.push(out['logits'].data as Float32Array);
    }
    rows.forEach((row, t) => assert.deepEqual(row, (whole.data as Float32Array).slice(t * 17, (t + 1) * 17), `position ${t}`));
    // A cache holds the heads of keys alone: [1, 12, kvHeads, width].
    const { heads = 2, kvHeads = heads } = options as { heads?: number; kvHeads?: number };
    assert.deepEqual(session.executor.getState(`cache/k/blocks.0.attention/1x12x${kvHeads}x${16 / heads}`).shape, [1, 12, kvHeads, 16 / heads]);
  });
}

test('the most probable token at temperature 0, also past the context', async () => {
  await using session = await compile(toyLM(), { loss: crossEntropy, optimizer: sgd({ lr: 0.1 }) });
  await session.step(toyBatch(0));
  const prompt = [1, 2, 3];
  const made = await take(generate(session, prompt, { tokens: 20, temperature: 0 }));
  assert.equal(made.length, 20);
  const sequence = [...prompt];
  for (const next of made.slice(0, 9)) {
    const { data, shape } = await session.predict(hostTensor('int32', [1, sequence.length], Int32Array.from(sequence)));
    const last = Array.from(data.subarray((shape[1] - 1) * 17));
    assert.equal(next, last.indexOf(Math.max(...last)));
    sequence.push(next);
  }
  assert.deepEqual(await take(generate(session, prompt, { tokens: 20, temperature: 2, topK: 1, seed: 5 })), made);
});

test('a seed gives one text, and bad requests are named', async () => {
  await using session = await compile(toyLM(), { loss: crossEntropy });
  const text = (seed: number): Promise<number[]> => take(generate(session, [0], { tokens: 15, seed }));
  assert.deepEqual(await text(1), await text(1));
  assert.notDeepEqual(await text(1), await text(2));
  await assert.rejects(take(generate(session, [99], { tokens: 1 })), /token 99/);
  await assert.rejects(take(generate(session, [1], { tokens: 1, temperature: -1 })), /temperature/);
  await assert.rejects(take(generate(session, [1], undefined as never)), /UserError.*the option "tokens" is missing/s);
});
