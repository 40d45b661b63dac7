// Text generation with a cache of keys and values: its logits have the bits of a forward pass over the whole sequence.
// Also sampling options, concurrent generations, and errors.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { crossEntropy } from '../../src/nn/loss.ts';
import { TransformerLM } from '../../src/nn/transformer.ts';
import { sgd } from '../../src/optim/sgd.ts';
import { generate } from '../../src/session/generate.ts';
import { compile } from '../../src/session/node.ts';
import { hostTensor } from '../../src/base/tensor.ts';
import { call } from '../../src/trace/trace.ts';
import { peek } from '../support/delayed-device.ts';
import { noCompiler, toyBatch, toyLM } from '../support/toy.ts';

const collect = async (tokens: AsyncGenerator<number>): Promise<number[]> => {
  const list: number[] = [];
  for await (const t of tokens) list.push(t);
  return list;
};

for (const [name, options] of Object.entries({
  'as many key heads as query heads': {},
  'fewer key heads': { heads: 4, kvHeads: 2 },
  'one key head': { heads: 4, kvHeads: 1 },
})) {
  test(`logits of cached single-token steps have the bits of the whole sequence: ${name}`, async () => {
    const model = toyLM(options);
    await using session = await compile(model, { loss: crossEntropy, optimizer: sgd({ lr: 0.1 }) });
    for (let i = 0; i < 3; i++) await session.step(toyBatch(i));
    const { x } = toyBatch(9, 1);
    const whole = await session.predict(x);
    const rows: Float32Array[] = [];
    for (let t = 0; t < 12; t++) {
      const out = await session.runGraph(
        'one',
        (trace) => {
          const input = trace.input('input', 'tokens', { dtype: 'int32', shape: [1, 1] });
          trace.output('logits', call(model, input, { position: trace.scalar('position', 'int32') }));
        },
        { tokens: Int32Array.of(x.data[t]), position: Int32Array.of(t) },
      );
      rows.push(out['logits'].data as Float32Array);
    }
    rows.forEach((row, t) =>
      assert.deepEqual(row, (whole.data as Float32Array).slice(t * 17, (t + 1) * 17), `position ${t}`),
    );
    // A cache has one entry for each key head, not for each query head: [batch 1, context 12, kvHeads, head width].
    const { heads = 2, kvHeads = heads } = options as { heads?: number; kvHeads?: number };
    assert.deepEqual(
      peek(() => session.executor.peekState(`cache/k/blocks.0.attention/1x12x${kvHeads}x${16 / heads}`)).shape,
      [1, 12, kvHeads, 16 / heads],
    );
  });
}

test('temperature 0 gives the most probable token, also after the context is full', async () => {
  await using session = await compile(toyLM(), { loss: crossEntropy, optimizer: sgd({ lr: 0.1 }) });
  await session.step(toyBatch(0));
  const prompt = [1, 2, 3];
  const made = await collect(generate(session, prompt, { tokens: 20, temperature: 0 }));
  assert.equal(made.length, 20);
  const sequence = [...prompt];
  for (const next of made.slice(0, 9)) {
    const { data, shape } = await session.predict(hostTensor('int32', [1, sequence.length], Int32Array.from(sequence)));
    const last = Array.from(data.subarray((shape[1] - 1) * 17));
    assert.equal(next, last.indexOf(Math.max(...last)));
    sequence.push(next);
  }
  assert.deepEqual(await collect(generate(session, prompt, { tokens: 20, temperature: 2, topK: 1, seed: 5 })), made);
});

test('equal seeds give equal texts; errors name wrong tokens and options', async () => {
  await using session = await compile(toyLM(), { loss: crossEntropy });
  const text = (seed: number): Promise<number[]> => collect(generate(session, [0], { tokens: 15, seed }));
  assert.deepEqual(await text(1), await text(1));
  assert.notDeepEqual(await text(1), await text(2));
  await assert.rejects(collect(generate(session, [99], { tokens: 1 })), /token 99/);
  await assert.rejects(collect(generate(session, [1], { tokens: 1, temperature: -1 })), /temperature/);
  await assert.rejects(
    collect(generate(session, [1], undefined as never)),
    /UserError.*the option "tokens" is missing/s,
  );
});

for (const device of ['native', 'wasm', 'reference'] as const) {
  test(
    `${device}: concurrent generations give the same texts as one after the other, and free their caches`,
    { skip: device === 'native' && noCompiler, timeout: 200_000 },
    async () => {
      await using session = await compile(toyLM(), {
        loss: crossEntropy,
        optimizer: sgd({ lr: 0.5 }),
        device,
        threads: 1,
        seed: 3,
      });
      for (let i = 0; i < 3; i++) await session.step(toyBatch(i));
      const prompts = [[1, 2, 3], [9], Array.from({ length: 40 }, (_, i) => i % 17)],
        options = { tokens: device === 'reference' ? 4 : 14, temperature: 0 };
      const alone: number[][] = [];
      for (const prompt of prompts) alone.push(await collect(generate(session, prompt, options)));
      const held = session.executor.stateBytes();
      assert.deepEqual(await Promise.all(prompts.map((prompt) => collect(generate(session, prompt, options)))), alone);
      // Some callers stop early, some throw: the other generations continue, and all caches are freed.
      const requests = fc.array(
        fc.record({ prompt: fc.nat(2), leave: fc.constantFrom(1, 2, 99), throws: fc.boolean() }),
        { minLength: 1, maxLength: 5 },
      );
      await fc.assert(
        fc.asyncProperty(requests, async (list) => {
          const texts = await Promise.all(
            list.map(async ({ prompt, leave, throws }) => {
              const text: number[] = [];
              try {
                for await (const token of generate(session, prompts[prompt], options)) {
                  text.push(token);
                  if (text.length < leave) continue;
                  if (throws) throw new Error('enough');
                  break;
                }
              } catch (error) {
                assert.match(String(error), /enough/);
              }
              return text;
            }),
          );
          texts.forEach((text, i) => {
            assert.deepEqual(text, alone[list[i].prompt].slice(0, list[i].leave));
          });
          assert.equal(session.executor.stateBytes(), held);
        }),
        { numRuns: device === 'reference' ? 2 : 8 },
      );
      // A generator that is paused keeps its cache until `return` is called.
      const kept = generate(session, [1], options);
      await kept.next();
      if (device !== 'reference') assert.ok(session.executor.stateBytes() > held);
      await kept.return(undefined);
      assert.equal(session.executor.stateBytes(), held);
      assert.equal((await kept.next()).done, true);
    },
  );
}

test('a generation for whose cache there is no memory is refused with the sizes; the others continue', async () => {
  const options = { loss: crossEntropy, device: 'wasm', threads: 1, seed: 3 } as const,
    model = (): TransformerLM => new TransformerLM({ vocab: 17, dModel: 64, layers: 2, heads: 2, context: 256 });
  await using roomy = await compile(model(), options);
  const first = generate(roomy, [1], { tokens: 3 });
  await first.next();
  const one = roomy.openCaches(),
    { executor } = roomy,
    memory = executor.stateBytes() + executor.arenaBytes() + 60_000;
  assert.ok(executor.stateBytes() > 4 * 256 * 64 * 4, 'each layer has a cache of keys and a cache of values');
  one.close();
  const want = await collect(generate(roomy, [1], { tokens: 3 }));
  await first.return(undefined);
  await using tight = await compile(model(), { ...options, memory });
  const a = generate(tight, [1], { tokens: 3 }),
    tokens = [(await a.next()).value as number];
  await assert.rejects(
    collect(generate(tight, [2], { tokens: 3 })),
    /UserError.*caches need .* beside .* of states.*are available.*hint: fewer sequences at once/s,
  );
  for await (const token of a) tokens.push(token);
  assert.deepEqual(tokens, want);
  assert.deepEqual(
    await collect(generate(tight, [1], { tokens: 3 })),
    want,
    'the memory of the finished generation is free again',
  );
});

test('contexts of 1, 2 and 3 tokens: each next token is predicted from the tokens in the cache', async () => {
  for (const context of [1, 2, 3]) {
    await using session = await compile(new TransformerLM({ vocab: 17, dModel: 8, layers: 1, heads: 2, context }), {
      loss: crossEntropy,
      device: 'wasm',
      threads: 1,
      seed: 1,
    });
    const made = await collect(generate(session, [1], { tokens: 8, temperature: 0 }));
    // Tokens in the cache: all so far; when the context is full, only its second half is kept, and new ones follow.
    let sequence = [1];
    for (const next of made) {
      if (sequence.length > context) sequence = sequence.slice(-Math.max(1, Math.floor(context / 2)));
      const { data } = await session.predict(hostTensor('int32', [1, sequence.length], sequence)),
        last = Array.from(data.subarray(-17));
      assert.equal(next, last.indexOf(Math.max(...last)), `context ${context}`);
      sequence.push(next);
    }
  }
});

test('an invalid request rejects with a clear error when the first token is asked for', async () => {
  await using session = await compile(toyLM(), { loss: crossEntropy, device: 'wasm', threads: 1 });
  await using bytes = await compile(new TransformerLM({ vocab: 256, dModel: 8, layers: 1, heads: 2, context: 4 }), {
    loss: crossEntropy,
    device: 'wasm',
    threads: 1,
  });
  const refused = (of: typeof session, prompt: unknown, options: object, why: RegExp): Promise<void> =>
    assert.rejects(collect(generate(of, prompt as number[], { tokens: 2, ...options })), why);
  for (const seed of [-1, NaN, 0.5, 2 ** 32, Infinity])
    await refused(session, [1], { seed }, /UserError.*generate: a seed must be a whole number from 0 to 4294967295/s);
  for (const topK of [0, 1.5, NaN, -3])
    await refused(session, [1], { topK }, /UserError.*topK must be a whole number of at least 1/s);
  for (const tokens of [-1, 2.5, NaN])
    await refused(session, [1], { tokens }, /UserError.*tokens must be a whole number of at least 0/s);
  for (const temperature of [-1, NaN])
    await refused(session, [1], { temperature }, /UserError.*temperature must be at least 0/s);
  await refused(session, [], {}, /UserError.*generate: the prompt is empty.*give one token at least/s);
  await refused(
    session,
    'text',
    {},
    /UserError.*the prompt must be tokens, numbers from 0 to 16, got text.*tokenizer/s,
  );
  await refused(
    bytes,
    'text',
    {},
    /UserError.*the prompt must be tokens, numbers from 0 to 255, got text.*new TextEncoder\(\)\.encode\(text\)/s,
  );
  for (const prompt of [undefined, null, 7, {}])
    await refused(session, prompt, {}, /UserError.*the prompt must be a list of tokens, got/s);
  await refused(
    session,
    [99, ...new Array<number>(30).fill(1)],
    {},
    /UserError.*the prompt holds token 99 \(at 0\), the model knows 0\.\.16/s,
  );
  for (const token of [-1, 17, 0.5, NaN]) await refused(session, [1, token], {}, /UserError.*the prompt holds token/s);
  assert.deepEqual(
    await collect(generate(bytes, [], { tokens: 3, seed: 1 })),
    await collect(generate(bytes, [10], { tokens: 3, seed: 1 })),
    'for a model of bytes (256 tokens), an empty prompt means a line break',
  );
  assert.deepEqual(await collect(generate(session, [1], { tokens: 0 })), []);
  // Invalid requests do not reach the device, and allocate no cache.
  assert.ok(!session.executor.stateNames().some((name) => name.startsWith('cache/')));
  for (const value of [NaN, Infinity]) {
    await session.restore(0, [
      { name: 'head.weight', value: hostTensor('float32', [16, 17], new Float32Array(272).fill(value)) },
    ]);
    for (const temperature of [0, 1])
      await refused(
        session,
        [1],
        { temperature },
        /UserError.*generate: the logits are not finite: .* for token 0.*load an earlier checkpoint/s,
      );
  }
});
