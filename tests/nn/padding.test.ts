// Padding of a TransformerLM: a batch with padding behind its sequences has the loss, the losses and statistics of the
// layers, and the gradients of a batch without these columns. Without the option, nothing changes.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hostTensor, type Batch } from '../../src/base/tensor.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { crossEntropy } from '../../src/nn/loss.ts';
import { TransformerLM, type TransformerOptions } from '../../src/nn/transformer.ts';
import { sgd } from '../../src/optim/sgd.ts';
import { generate } from '../../src/session/generate.ts';
import { compile } from '../../src/session/node.ts';
import { nameParameters } from '../../src/trace/module.ts';
import { call } from '../../src/trace/trace.ts';
import { configure } from '../../src/train/configure.ts';
import { parseConfig } from '../../src/train/schema.ts';
import { noCompiler } from '../support/toy.ts';

const BATCH = 4,
  REAL = 6,
  TIME = 16,
  VOCAB = 16,
  PAD = 0;

/** Sequences of REAL tokens in rows of `time`. The last target of each is padding. */
function batchOf(time: number): Batch {
  const x = new Int32Array(BATCH * time).fill(PAD),
    y = x.slice();
  for (let b = 0; b < BATCH; b++) {
    for (let t = 0; t < REAL; t++) {
      const token = 1 + ((b * 5 + t * 3) % (VOCAB - 1));
      x[b * time + t] = token;
      if (t > 0) y[b * time + t - 1] = token;
    }
  }
  return { x: hostTensor('int32', [BATCH, time], x), y: hostTensor('int32', [BATCH, time], y) };
}

const OPTIONS: TransformerOptions = {
  vocab: VOCAB,
  dModel: 16,
  layers: 2,
  heads: 2,
  context: TIME,
  moe: { experts: 4, topK: 1, hidden: 8 },
};

async function stepOf(options: TransformerOptions, batch: Batch, device: 'native' | 'wasm') {
  const model = new TransformerLM(options),
    loss = (logits: Tensor, y: Tensor) => crossEntropy(logits, y, { ignoreIndex: PAD });
  await using session = await compile(model, { loss, optimizer: sgd({ lr: 1 }), seed: 1, device });
  const { loss: value, aux, stats } = await session.step(batch),
    named = nameParameters(model).parameters;
  // After one step of SGD, parameters differ from their equal starting values by the gradient.
  const parameters = await session.runGraph(
    'parameters',
    (t) => {
      for (const [name, parameter] of named) t.output(name, t.parameter(parameter));
    },
    {},
  );
  const counts = Object.fromEntries(Object.entries(stats).map(([name, { data }]) => [name, Array.from(data as never)]));
  return { value, aux, counts, parameters };
}

const near = (a: number, b: number, what: string): void =>
  assert.ok(Math.abs(a - b) <= 1e-5 * (1 + Math.abs(b)), `${what}: ${a} is not ${b}`);

const SETTINGS = {
  dropless: {},
  'capacity 1 by position': { capacity: 1, priority: 'position' },
  'capacity 1 by choice': { capacity: 1, priority: 'choice' },
  'capacity 1 by probability': { capacity: 1, priority: 'probs' },
} as const;

for (const device of ['native', 'wasm'] as const) {
  for (const [name, setting] of Object.entries(SETTINGS)) {
    for (const recompute of [false, true]) {
      test(
        `padding counts nowhere: ${name}, ${device}${recompute ? ', recomputed' : ''}`,
        { skip: device === 'native' && noCompiler },
        async () => {
          const moe = { experts: 4, topK: 1, hidden: 8, ...setting },
            options = { ...OPTIONS, recompute, moe },
            want = await stepOf(options, batchOf(REAL), device),
            got = await stepOf({ ...options, padding: PAD }, batchOf(TIME), device);
          near(got.value, want.value, 'loss');
          assert.deepEqual(got.counts, want.counts);
          const load = got.counts['blocks.0.moe/load'] as number[];
          assert.equal(
            load.reduce((a, b) => a + b),
            BATCH * REAL,
          );
          if (name !== 'dropless') assert.ok((got.counts['blocks.0.moe/dropped'] as number[]).some((n) => n > 0));
          assert.deepEqual(Object.keys(got.aux), Object.keys(want.aux));
          for (const [key, value] of Object.entries(want.aux)) near(got.aux[key], value, key);
          assert.deepEqual(Object.keys(got.parameters), Object.keys(want.parameters));
          for (const [key, { data }] of Object.entries(want.parameters))
            Array.from(data as Float32Array).forEach((v, i) =>
              near((got.parameters[key].data as Float32Array)[i], v, `${key}[${i}]`),
            );
        },
      );
    }
  }
}

test('a batch in rows counted at run time leaves padding out too', async () => {
  const loss = (logits: Tensor, y: Tensor) => crossEntropy(logits, y, { ignoreIndex: PAD }),
    loads = async (padding: number | undefined, times: readonly number[]): Promise<[number, unknown][]> => {
      const model = new TransformerLM({ ...OPTIONS, ...(padding !== undefined && { padding }) });
      await using session = await compile(model, { loss, optimizer: sgd({ lr: 0.1 }), seed: 1, device: 'wasm' });
      const found: [number, unknown][] = [];
      for (const time of times) {
        const lengths = Int32Array.from({ length: BATCH }, () => time),
          { loss: value, stats } = await session.step({ ...batchOf(time), lengths });
        found.push([value, Array.from(stats['blocks.0.moe/load'].data as Int32Array)]);
      }
      return found;
    },
    want = await loads(undefined, [REAL, REAL, REAL]),
    got = await loads(PAD, [TIME, REAL + 3, REAL]);
  for (const [i, [value, load]] of got.entries()) {
    near(value, want[i][0], `step ${i}`);
    assert.deepEqual(load, want[i][1]);
  }
});

test('without the option, the same batch fills experts with padding', async () => {
  const { counts } = await stepOf(OPTIONS, batchOf(TIME), 'wasm'),
    load = counts['blocks.0.moe/load'] as number[];
  assert.equal(
    load.reduce((a, b) => a + b),
    BATCH * TIME,
  );
});

test('cached steps have the logits of the whole sequence, also for tokens that are padding', async () => {
  const model = new TransformerLM({ ...OPTIONS, padding: PAD });
  await using session = await compile(model, { loss: crossEntropy, optimizer: sgd({ lr: 0.1 }), device: 'wasm' });
  const tokens = [3, 5, PAD, 7, 2],
    whole = await session.predict(hostTensor('int32', [1, tokens.length], tokens));
  for (const [t, token] of tokens.entries()) {
    const { logits } = await session.runGraph(
      'one',
      (trace) => {
        const input = trace.input('input', 'tokens', { dtype: 'int32', shape: [1, 1] });
        trace.output('logits', call(model, input, { position: trace.scalar('position', 'int32') }));
      },
      { tokens: Int32Array.of(token), position: Int32Array.of(t) },
    );
    (logits.data as Float32Array).forEach((v, i) => near(v, (whole.data as Float32Array)[t * VOCAB + i], `${t}`));
  }
  const made: number[] = [];
  for await (const token of generate(session, [3, 5], { tokens: 8, temperature: 0 })) made.push(token);
  assert.equal(made.length, 8);
});

test('a padding that is no token, or has no effect, is refused by name', () => {
  const refused = (options: object, message: RegExp): void =>
    assert.throws(() => new TransformerLM({ ...OPTIONS, ...options }), { name: 'UserError', message });
  refused({ padding: VOCAB }, /padding must be the id of a token, 0\.\.15, got 16/u);
  refused({ padding: -1 }, /padding must be a whole number/u);
  refused({ padding: 1.5 }, /padding must be a whole number/u);
  refused({ padding: 1, moe: undefined }, /padding has no effect here/u);
  assert.throws(() => parseConfig({ model: { padding: 256 } }), /padding 256 is no token of the model/u);
  assert.throws(() => parseConfig({ model: { padding: 1 }, loss: 'nll' }), /the loss nll cannot ignore/u);
});

test('padding in a config holds for the model and for the loss', async () => {
  const base = { layers: 1, dModel: 16, heads: 2, context: 4, vocab: 257 },
    logits = Float32Array.from({ length: 2 * 257 }, (_, i) => (i * 7) % 5);
  for (const moe of [{ experts: 2, hidden: 8 }, null]) {
    const { model, loss } = (await configure(undefined, {}, { model: { ...base, moe, padding: 256 } })).experiment;
    assert.ok(model instanceof TransformerLM);
    assert.equal(model.options.padding, moe ? 256 : undefined);
    await using session = await compile(model, { loss, optimizer: sgd({ lr: 0.1 }), device: 'wasm' });
    const valueOf = async (rows: number, targets: number[]): Promise<number> => {
      const out = await session.runGraph(
        `loss${rows}`,
        (t) => {
          const o = t.input('input', 'o', { dtype: 'float32', shape: [rows, 257] });
          t.output('loss', loss(o, t.input('input', 'y', { dtype: 'int32', shape: [rows] })));
        },
        { o: logits.slice(0, rows * 257), y: Int32Array.from(targets) },
      );
      return Number(out['loss'].data[0]);
    };
    assert.equal(await valueOf(2, [3, 256]), await valueOf(1, [3]));
  }
});
