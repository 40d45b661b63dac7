// Drawing tokens: the same as by sorting all of them, for drawn logits and limits; log-probabilities; where texts stop.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { crossEntropy } from '../../src/nn/loss.ts';
import { TransformerLM } from '../../src/nn/transformer.ts';
import { compile } from '../../src/session/node.ts';
import { generate, generateLogprobs, type GenerateOptions } from '../../src/session/generate.ts';
import { drawToken, logprobsOf, type Sampling } from '../../src/session/sampling.ts';
import { toyLM } from '../support/toy.ts';

const PLAIN: Sampling = { temperature: 1, topK: Infinity, topP: 1, minP: 0, repetitionPenalty: 1 };

/** Tokens in descending order with their weights, after all limits. */
function sorted(
  given: readonly number[],
  s: Sampling,
  before: ReadonlySet<number>,
): { token: number; weight: number }[] {
  const logits = given.map((x, token) =>
      before.has(token) ? (x < 0 ? x * s.repetitionPenalty : x * (1 / s.repetitionPenalty)) : x,
    ),
    largest = Math.max(...logits);
  const all = logits
    .map((x, token) => ({ token, x, weight: Math.exp((x - largest) / s.temperature) }))
    .filter(({ x }) => x !== -Infinity)
    .sort((a, b) => b.x - a.x || a.token - b.token);
  const first = all.slice(0, s.topK),
    mass = first.reduce((sum, { weight }) => sum + weight, 0);
  let sum = 0,
    many = 0;
  while (many < first.length && (many === 0 || sum < s.topP * mass)) sum += first[many++].weight;
  return first.slice(0, s.topP < 1 ? many : Infinity).filter(({ weight }) => weight >= s.minP);
}

const logit = fc.oneof(
  { weight: 6, arbitrary: fc.double({ min: -12, max: 12, noNaN: true }) },
  { weight: 2, arbitrary: fc.constantFrom(0, 1, -1, 2) },
  { weight: 1, arbitrary: fc.constantFrom(-Infinity, -1e4, -60) },
);

test('tokens are drawn as by sorting all of them', () => {
  let compared = 0;
  fc.assert(
    fc.property(
      fc.array(logit, { minLength: 1, maxLength: 60 }).filter((list) => list.some((x) => x > -20)),
      fc.constantFrom(0.2, 1, 3),
      fc.constantFrom(1, 2, 5, 40, Infinity),
      fc.constantFrom(0.001, 0.3, 0.9, 1),
      fc.constantFrom(0, 0.01, 0.5, 1),
      fc.constantFrom(1, 1.3, 0.8),
      fc.array(fc.nat(59), { maxLength: 8 }),
      fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
      (logits, temperature, topK, topP, minP, repetitionPenalty, seen, u) => {
        const sampling = { temperature, topK, topP, minP, repetitionPenalty },
          before = new Set(seen.filter((token) => token < logits.length)),
          kept = sorted(logits, sampling, before),
          mass = kept.reduce((sum, { weight }) => sum + weight, 0);
        let sum = 0;
        const ends = kept.map(({ weight }) => (sum += weight)),
          // Rounding decides on which side of a limit a token is.
          near = (a: number, b: number) => Math.abs(a - b) < 1e-9 * mass,
          unsure =
            [...ends, ...ends.map((end) => end / topP)].some((end) => near(end, u * mass) || near(end, mass * topP)) ||
            sorted(logits, { ...sampling, minP: 0 }, before).some(({ weight }) => weight !== 1 && near(weight, minP));
        const got = drawToken(Float64Array.from(logits), sampling, before, u);
        if (unsure) return;
        compared++;
        assert.equal(got, kept[ends.findIndex((end) => end > u * mass)].token);
      },
    ),
    { numRuns: 3000 },
  );
  assert.ok(compared > 1500, `${compared} draws were compared`);
});

test('many tokens: equal logits, a wide range, and a temperature near 0', () => {
  const size = 20_000,
    flat = new Float64Array(size).fill(2);
  assert.equal(drawToken(flat.slice(), PLAIN, new Set(), 0.50001), size / 2);
  assert.equal(drawToken(flat.slice(), { ...PLAIN, topK: 100 }, new Set(), 0.999), 99);
  assert.equal(drawToken(flat.slice(), { ...PLAIN, topP: 0.25 }, new Set(), 0.9999), size / 4 - 1);
  const ramp = Float64Array.from({ length: size }, (_, i) => -i / 10);
  assert.equal(drawToken(ramp.slice(), { ...PLAIN, temperature: 1e-9 }, new Set(), 0.99), 0);
  assert.equal(drawToken(ramp.slice(), { ...PLAIN, temperature: 1e12 }, new Set(), 0.50001), size / 2);
  const rare = Float64Array.of(0, -100, -Infinity);
  assert.equal(drawToken(rare, PLAIN, new Set(), 1 - 2 ** -53), 0);
});

test('a penalty makes tokens that were there less probable, whatever the sign of their logits', () => {
  const logits = [2, 1.9, -1, -1.1];
  assert.equal(
    drawToken(Float64Array.from(logits), { ...PLAIN, temperature: 0, repetitionPenalty: 1.2 }, new Set([0]), 0),
    1,
  );
  const low = [-3, -1, -1.1];
  assert.equal(
    drawToken(Float64Array.from(low), { ...PLAIN, temperature: 0, repetitionPenalty: 1.2 }, new Set([1]), 0),
    2,
  );
});

test('log-probabilities are those of softmax', () => {
  fc.assert(
    fc.property(fc.array(logit, { minLength: 2, maxLength: 40 }), fc.nat(39), fc.nat(45), (list, at, count) => {
      const logits = Float64Array.from([...list, 0.5]),
        token = at % logits.length,
        whole = Math.log(logits.reduce((sum, x) => sum + Math.exp(x), 0)),
        { logprob, top } = logprobsOf(logits, token, count);
      const close = (a: number, b: number): boolean => a === b || Math.abs(a - b) < 1e-9;
      assert.ok(close(logprob, logits[token] - whole));
      const order = sorted([...logits], PLAIN, new Set());
      assert.deepEqual(
        top.map((t) => t.token),
        order.slice(0, count).map((t) => t.token),
      );
      for (const t of top) assert.ok(close(t.logprob, logits[t.token] - whole));
    }),
  );
});

const all = async <T>(texts: AsyncGenerator<T>): Promise<T[]> => {
  const list: T[] = [];
  for await (const t of texts) list.push(t);
  return list;
};

test('a text ends before a stop token or sequence; what only begins like one is given', async () => {
  await using session = await compile(toyLM(), { loss: crossEntropy, device: 'reference', seed: 4 });
  const options = { tokens: 10, seed: 9 },
    whole = await all(generate(session, [1], options)),
    until = (stop: GenerateOptions['stop']): Promise<number[]> => all(generate(session, [1], { ...options, stop }));
  const absent = Array.from({ length: 17 }, (_, i) => i).find((t) => !whole.includes(t))!;
  assert.deepEqual(await until([absent]), whole);
  assert.deepEqual(await until([]), whole);
  assert.deepEqual(await until([whole[3]]), whole.slice(0, whole.indexOf(whole[3])));
  assert.deepEqual(
    await until([
      [whole[8], whole[9], absent],
      [...whole.slice(2, 9), absent],
    ]),
    whole,
  );
  const pair = whole.slice(4, 6),
    first = whole.findIndex((t, i) => t === pair[0] && whole[i + 1] === pair[1]);
  assert.deepEqual(await until([[absent, absent], pair]), whole.slice(0, first));
});

test('a model of bytes stops at texts; other models refuse them by name', async () => {
  const bytes = await compile(
    new TransformerLM({
      vocab: 256,
      dModel: 16,
      layers: 1,
      heads: 2,
      context: 16,
      moe: { experts: 2, topK: 1, hidden: 8 },
    }),
    { loss: crossEntropy, device: 'reference' },
  );
  const whole = await all(generate(bytes, [65], { tokens: 6, temperature: 0 })),
    text = String.fromCharCode(...whole.slice(2, 4).filter((b) => b < 128));
  if (text.length === 2) {
    const got = await all(generate(bytes, [65], { tokens: 6, temperature: 0, stop: [text] }));
    assert.deepEqual(got, whole.slice(0, String.fromCharCode(...whole).indexOf(text)));
  }
  await bytes.close();
  await using session = await compile(toyLM(), { loss: crossEntropy, device: 'reference' });
  const refused = (more: Partial<GenerateOptions>): Promise<unknown> =>
    all(generate(session, [1], { tokens: 2, ...more }));
  await assert.rejects(refused({ stop: ['end'] }), /UserError.*stop\[0\] is a text/s);
  await assert.rejects(refused({ stop: [[1, 99]] }), /UserError.*stop\[0\] holds 99.*0\.\.16/s);
  await assert.rejects(refused({ stop: [3, []] }), /UserError.*stop\[1\] must hold a token/s);
  await assert.rejects(refused({ topP: 0 }), /UserError.*topP/s);
  await assert.rejects(refused({ minP: 2 }), /UserError.*minP/s);
  await assert.rejects(refused({ repetitionPenalty: 0 }), /UserError.*repetitionPenalty/s);
  await assert.rejects(refused({ temperature: 0, topP: 0.9 }), /UserError.*topP has no effect/s);
});

test('generateLogprobs gives the tokens of generate, with what the model thought of them', async () => {
  await using session = await compile(toyLM(), { loss: crossEntropy, device: 'reference', seed: 4 });
  const options = { tokens: 8, seed: 2, repetitionPenalty: 1.4, topP: 0.8 },
    list = await all(generateLogprobs(session, [1, 2], { ...options, logprobs: 17 }));
  assert.deepEqual(
    list.map(({ token }) => token),
    await all(generate(session, [1, 2], options)),
  );
  for (const { token, logprob, top } of list) {
    assert.equal(top.length, 17);
    assert.ok(Math.abs(top.reduce((sum, t) => sum + Math.exp(t.logprob), 0) - 1) < 1e-9);
    assert.equal(top.find((t) => t.token === token)?.logprob, logprob);
  }
  assert.deepEqual((await all(generateLogprobs(session, [1], { tokens: 1 })))[0].top, []);
});
