// Log-likelihoods of continuations equal those of the plain computation: log softmax of the logits of `forward`.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { hostTensor } from '../../src/base/tensor.ts';
import { crossEntropy } from '../../src/nn/loss.ts';
import { TransformerLM } from '../../src/nn/transformer.ts';
import { sgd } from '../../src/optim/sgd.ts';
import { logLikelihoods } from '../../src/session/likelihood.ts';
import { compile } from '../../src/session/node.ts';
import type { Session } from '../../src/session/session.ts';
import { noCompiler, toyBatch, toyLM } from '../support/toy.ts';

const VOCAB = 17,
  CONTEXT = 12;

/** The sum of log softmax over the last tokens, from the logits of one forward pass, in float64. */
async function plain(
  session: Session,
  prompt: readonly number[],
  continuation: readonly number[],
  context = CONTEXT,
): Promise<number> {
  const read = [...prompt, ...continuation].slice(-(context + 1)),
    x = hostTensor('int32', [1, read.length - 1], Int32Array.from(read.slice(0, -1)));
  const { output } = await session.forward({ x, y: x });
  let sum = 0;
  continuation.forEach((token, i) => {
    const at = read.length - 1 - continuation.length + i,
      logits = Array.from(output.data.subarray(at * VOCAB, (at + 1) * VOCAB));
    sum += logits[token] - Math.log(logits.reduce((total, logit) => total + Math.exp(logit), 0));
  });
  return sum;
}

const token = fc.nat(VOCAB - 1),
  cases = fc.record({
    prompt: fc.array(token, { minLength: 1, maxLength: 20 }),
    continuations: fc.array(fc.array(token, { minLength: 1, maxLength: CONTEXT }), { minLength: 1, maxLength: 4 }),
  });

for (const device of ['native', 'wasm'] as const)
  for (const rows of [true, false])
    test(
      `${device}: prompts and continuations of any length, of a model that takes ${rows ? 'rows' : 'no rows'}`,
      { skip: device === 'native' && noCompiler },
      async () => {
        const model = toyLM();
        if (!rows) Object.defineProperty(model, 'sequences', { value: undefined });
        await using session = await compile(model, {
          loss: crossEntropy,
          optimizer: sgd({ lr: 0.5 }),
          device,
          threads: 1,
        });
        for (let i = 0; i < 5; i++) await session.step(toyBatch(i));
        const held = session.executor.stateBytes();
        await fc.assert(
          fc.asyncProperty(cases, async ({ prompt, continuations }) => {
            const found = await logLikelihoods(session, prompt, continuations);
            for (const [i, continuation] of continuations.entries()) {
              const want = await plain(session, prompt, continuation);
              assert.ok(Math.abs(found[i] - want) < 1e-5 * (1 + Math.abs(want)), `${found[i]} is not ${want}`);
            }
            // Each alone has the same bits.
            const last = continuations.length - 1;
            assert.deepEqual(await logLikelihoods(session, prompt, [continuations[last]]), [found[last]]);
          }),
          { numRuns: 40 },
        );
        assert.equal(session.executor.stateBytes(), held, 'caches are freed');
      },
    );

test('a prompt of several runs, as long as the context and longer', async () => {
  const context = 150,
    model = new TransformerLM({ vocab: VOCAB, dModel: 16, layers: 2, heads: 2, context });
  await using session = await compile(model, { loss: crossEntropy, device: 'wasm', threads: 1 });
  for (const length of [64, 65, 66, 129, 149, 150, 151, 200]) {
    const prompt = Array.from({ length }, (_, i) => (i * i + 3) % VOCAB),
      continuations = [[5], Array.from({ length: 70 }, (_, i) => (7 * i) % VOCAB), [1, 2]];
    const found = await logLikelihoods(session, prompt, continuations);
    for (const [i, continuation] of continuations.entries()) {
      const want = await plain(session, prompt, continuation, context);
      assert.ok(Math.abs(found[i] - want) < 1e-5 * Math.abs(want), `${length}: ${found[i]} is not ${want}`);
    }
  }
});

test('what cannot be computed is refused by name', async () => {
  await using session = await compile(toyLM(), { loss: crossEntropy, device: 'wasm', threads: 1 });
  const refused = (prompt: number[], continuation: number[], pattern: RegExp): Promise<void> =>
    assert.rejects(logLikelihoods(session, prompt, [[1], continuation]), pattern);
  await refused([], [1], /the prompt is empty/);
  await refused([1], [], /continuation 1 is empty/);
  await refused([17], [1], /the prompt holds token 17 \(at 0\), the model knows 0\.\.16/);
  await refused([1], [1, -1], /continuation 1 holds token -1 \(at 1\)/);
  await refused([1], Array<number>(13).fill(1), /continuation 1 has 13 tokens, and the context of the model is 12/);
});
