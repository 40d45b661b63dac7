// What is stored in 16 bits (`precision`) has the same bits on every device, for any number of threads, whether values
// are stored or recomputed, and after a checkpoint was loaded.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fromHalf, isHalf } from '../../src/base/half.ts';
import { hostTensor, type Batch } from '../../src/base/tensor.ts';
import { Stream } from '../../src/base/random.ts';
import { producers } from '../../src/graph/graph.ts';
import { nn } from '../../src/index.ts';
import { crossEntropy, meanSquaredError } from '../../src/nn/loss.ts';
import { TransformerLM, type TransformerOptions } from '../../src/nn/transformer.ts';
import { adamW } from '../../src/optim/adam.ts';
import { sgd } from '../../src/optim/sgd.ts';
import { relu } from '../../src/graph/ops/elementwise/relu.ts';
import { compileGraph } from '../../src/pipeline.ts';
import type { RecompileEvent, Rule } from '../../src/recompile/rule.ts';
import { compile } from '../../src/session/node.ts';
import { PRECISIONS, type Precision } from '../../src/session/platform.ts';
import type { Session } from '../../src/session/session.ts';
import type { CompileOptions, Model } from '../../src/session/step.ts';
import { peek } from '../support/delayed-device.ts';
import { fingerprint, noCompiler, toyBatch, toyLM } from '../support/toy.ts';

const SHORT = PRECISIONS.filter((p) => p !== 'float32');

const open = (model: Model, options: Partial<CompileOptions> = {}): Promise<Session> =>
  compile(model, {
    loss: crossEntropy,
    optimizer: adamW({ lr: 1e-2, clip: 1 }),
    device: 'wasm',
    threads: 1,
    seed: 3,
    say: () => undefined,
    ...options,
  });

const lm = (options: Partial<TransformerOptions> = {}): TransformerLM =>
  new TransformerLM({
    vocab: 17,
    dModel: 16,
    layers: 2,
    heads: 2,
    context: 12,
    dropout: 0.1,
    moe: { experts: 4, topK: 2, hidden: 24, capacity: 'dropless' },
    ...options,
  });

const denseLm = (): TransformerLM =>
  new TransformerLM({ vocab: 17, dModel: 16, layers: 2, heads: 2, context: 12, hidden: 24 });

/** Losses of some steps, and the states after them. */
async function course(session: Session, batch: (i: number) => Batch = toyBatch): Promise<unknown[]> {
  const losses: unknown[] = [];
  for (let i = 0; i < 3; i++) losses.push((await session.step(batch(i))).loss);
  return [...losses, fingerprint(session)];
}

const images = (i: number): Batch => {
  const x = new Stream(5, 'images').normals(i, 1, new Float32Array(6 * 8 * 8));
  return {
    x: hostTensor('float32', [6, 8, 8, 1], x),
    y: hostTensor(
      'int32',
      [6],
      Int32Array.from({ length: 6 }, (_, n) => (n + i) % 3),
    ),
  };
};
const rows = (i: number): Batch => {
  const of = (name: string, width: number) =>
    hostTensor('float32', [9, width], new Stream(5, name).normals(i, 1, new Float32Array(9 * width)));
  return { x: of('x', 7), y: of('y', 5) };
};

const models: Readonly<
  Record<string, { make: () => Model; batch?: (i: number) => Batch; loss?: typeof crossEntropy }>
> = {
  'a language model': { make: () => lm() },
  'with spilling': {
    make: () => lm({ moe: { experts: 4, topK: 2, hidden: 24, capacity: 0.75, overflow: 'spill' } }),
  },
  'with shared keys and tied embeddings': { make: () => lm({ heads: 4, kvHeads: 2, tied: true }) },
  'of dense layers': { make: () => denseLm() },
  'a network for images': {
    make: () =>
      new nn.Sequential(
        new nn.Conv2d(1, 4, 3),
        new nn.BatchNorm(4),
        { forward: relu },
        new nn.MaxPool2d(2),
        new nn.Flatten(),
        new nn.Linear(36, 3, { role: 'head' }),
      ),
    batch: images,
  },
  'a mixture of separate experts': {
    make: () => new nn.MoE({ dModel: 7, topK: 2, experts: Array.from({ length: 3 }, () => new nn.MLP([7, 6, 5])) }),
    batch: rows,
    loss: meanSquaredError,
  },
};

for (const precision of SHORT) {
  for (const [name, { make, batch, loss = crossEntropy }] of Object.entries(models)) {
    test(`${precision}: ${name} has the same bits on every device, for 1 and 2 threads`, async (t) => {
      const on = async (device: 'wasm' | 'native', threads: number): Promise<unknown[]> => {
        await using session = await open(make(), { precision, device, threads, loss });
        return await course(session, batch);
      };
      const want = await on('wasm', 1);
      assert.deepEqual(await on('wasm', 2), want);
      if (noCompiler) t.diagnostic(`native: ${noCompiler}`);
      else
        for (const threads of [1, 2]) assert.deepEqual(await on('native', threads), want, `native, ${threads} threads`);
    });
  }

  test(`${precision}: what is recomputed has the bits of what is stored`, async () => {
    const [kept, recomputed] = await Promise.all(
      [false, true].map(async (recompute) => {
        await using session = await open(lm({ recompute }), { precision });
        return await course(session);
      }),
    );
    assert.deepEqual(recomputed, kept);
  });

  test(`${precision}: a split has the bits of accumulate`, async () => {
    const [accumulated, split] = await Promise.all(
      [{ accumulate: 3 }, { split: 3 }].map(async (parts) => {
        await using session = await open(lm(), { precision, ...parts });
        return await course(session);
      }),
    );
    assert.deepEqual(split, accumulated);
  });

  test(`${precision}: a checkpoint continues with the same bits, on another device`, async (t) => {
    await using session = await open(lm(), { precision }),
      other = await open(lm(), { precision, seed: 9, device: noCompiler ? 'wasm' : 'native', threads: 2 });
    if (noCompiler) t.diagnostic(`native: ${noCompiler}`);
    await course(session);
    await other.deserialize(await session.serialize());
    assert.deepEqual(fingerprint(other), fingerprint(session));
    assert.deepEqual(await course(other), await course(session));
  });

  test(`${precision}: a step has the same bits by a program for fixed sizes and by one for rows`, async () => {
    for (const model of [denseLm, lm]) {
      await using rows = await open(model(), { precision }),
        fixed = await open(model(), { precision });
      await rows.step(toyBatch(0, 3, 7));
      await fixed.deserialize(await rows.serialize());
      const batch = toyBatch(1, 5, 6);
      assert.deepEqual(await rows.step(batch), await fixed.step(batch));
      assert.deepEqual(fingerprint(rows), fingerprint(fixed));
    }
  });

  test(`${precision}: results are near those of float32, on devices and on the reference`, async () => {
    const losses = async (options: Partial<CompileOptions>): Promise<number[]> => {
      await using session = await open(toyLM(), options);
      const all: number[] = [];
      for (let i = 0; i < 6; i++) all.push((await session.step(toyBatch(i))).loss);
      return all;
    };
    const [want, got, reference] = [
      await losses({}),
      await losses({ precision }),
      await losses({ precision, device: 'reference' }),
    ];
    for (const [i, loss] of want.entries())
      for (const near of [got[i], reference[i]])
        assert.ok(Math.abs(near - loss) < 0.02 * loss, `step ${i}: ${near}, float32 ${loss}`);
    assert.notDeepEqual(got, want);
  });

  test(`${precision}: a neutral recompilation keeps every bit`, { timeout: 120_000 }, async () => {
    const events: RecompileEvent[] = [],
      model = (): TransformerLM =>
        lm({ moe: { experts: 4, topK: 2, hidden: 24, capacity: 0.75, overflow: 'spill' }, dropout: 0 });
    const more: Rule<TransformerLM> = {
      name: 'more capacity',
      budget: 1,
      trigger: (run) => run.step === 2,
      alter(draft) {
        for (const { moe } of draft.blocks) if (moe) moe.capacity = 1.25;
      },
    };
    await using ruled = await open(model(), { precision, events: (e) => void events.push(e) }),
      plain = await open(model(), { precision, observe: true });
    ruled.recompile(more);
    for (let i = 0; i < 40; i++)
      assert.equal((await ruled.step(toyBatch(i))).loss, (await plain.step(toyBatch(i))).loss, `step ${i}`);
    assert.deepEqual(
      events.map((e) => [e.class, e.verified, e.error]),
      [['N', true, undefined]],
    );
    assert.deepEqual(fingerprint(ruled), fingerprint(plain));
  });
}

test('with bfloat16-weights, weights, embeddings, heads and their moments are stored in bfloat16', async () => {
  await using session = await open(toyLM(), { precision: 'bfloat16-weights' });
  await session.step(toyBatch(0));
  const dtypes = Object.fromEntries(session.states().map(({ name, dtype }) => [name, dtype]));
  for (const [name, { role }] of session.named.parameters) {
    const want = ['weight', 'embedding', 'head'].includes(role) ? 'bfloat16' : 'float32';
    for (const state of [name, `optim/m/${name}`, `optim/v/${name}`]) assert.equal(dtypes[state], want, state);
  }
  assert.deepEqual(
    [...new Set([...session.named.parameters.values()].map((p) => p.role))].sort(),
    ['embedding', 'gain', 'head', 'router', 'weight'],
    'the model has parameters of these roles',
  );
});

test('a checkpoint is converted to the precision of the session that loads it, and this is said', async () => {
  const said: string[] = [],
    say = (line: string): void => void said.push(line);
  await using wide = await open(toyLM(), { say }),
    short = await open(toyLM(), { precision: 'bfloat16-weights', say });
  await course(wide);
  await short.deserialize(await wide.serialize());
  assert.match(said.join('\n'), /trained with precision float32, and continues with bfloat16-weights/);
  assert.match(said.join('\n'), /\d+ tensors of the checkpoint were rounded to bfloat16/);
  said.length = 0;
  await wide.deserialize(await short.serialize());
  assert.match(said.join('\n'), /trained with precision bfloat16-weights, and continues with float32/);
  assert.doesNotMatch(said.join('\n'), /rounded/);
  const [exact, rounded] = [wide, short].map((s) => new Map(s.states().map((state) => [state.name, peek(state.read)])));
  for (const [name, { dtype, data }] of rounded) {
    const wanted = isHalf(dtype) ? fromHalf(dtype, data, new Float32Array(data.length)) : data;
    assert.deepEqual(exact.get(name)?.data, wanted, name);
  }
});

test('small updates of bfloat16 weights are not lost: their mean is that of float32', async () => {
  // The gradient of a weight is 2e6 / 32, so that each step takes 1/1000 from each weight, which is 1 at first: a
  // quarter of the distance to the next bfloat16 below.
  const x = hostTensor('float32', [1, 32], new Float32Array(32).fill(1)),
    y = hostTensor('float32', [1, 32], new Float32Array(32).fill(-1e6));
  await using session = await open(new nn.Linear(32, 32, { bias: false }), {
    precision: 'bfloat16-weights',
    loss: meanSquaredError,
    optimizer: sgd({ lr: 1e-3 / (2e6 / 32) }),
  });
  await session.restore(0, [
    { name: 'weight', value: { dtype: 'bfloat16', shape: [32, 32], data: new Uint16Array(1024).fill(0x3f80) } },
  ]);
  for (let i = 0; i < 64; i++) await session.step({ x, y });
  const { data } = peek(session.states()[0].read),
    values = fromHalf('bfloat16', data, new Float64Array(data.length));
  const mean = values.reduce((a, b) => a + b) / values.length;
  assert.ok(Math.abs(mean - (1 - 64e-3)) < 2e-3, `the mean of the weights is ${mean}`);
});

test('routers, softmax, norms and losses are computed in float32 and nothing in them is rounded', async () => {
  await using session = await open(toyLM(), { precision: 'bfloat16', device: 'reference' });
  const graph = session.evaluationGraph(toyBatch(0)),
    made = producers(graph);
  const rounded = graph.nodes.filter((n) => n.op === 'cast' && graph.types[n.outputs[0]].dtype === 'bfloat16'),
    makers = rounded.map((n) => made[n.inputs[0]]);
  assert.deepEqual(
    makers.filter((n) => n?.scope.endsWith('.router')),
    [],
  );
  assert.deepEqual([...new Set(makers.map((n) => n?.op))].sort(), [
    'add',
    'attention',
    'combine',
    'gather',
    'gelu',
    'groupedMatmul',
    'matmul',
    'rmsNorm',
    'rope',
  ]);
  // The logits of the head and of the routers are read by the loss and by softmax as they are.
  for (const op of ['crossEntropy', 'softmax', 'topK']) {
    const read = graph.nodes.filter((n) => n.op === op).map((n) => made[n.inputs[0]]?.op);
    assert.ok(read.length > 0 && !read.includes('cast'), `${op} reads ${read.join(', ')}`);
  }
  // What products read as rows was rounded; their weights were not.
  const widened = (v: number): boolean => {
    const node = made[v];
    if (node && ['reshape', 'dispatch', 'slice'].includes(node.op)) return widened(node.inputs[0]);
    return node?.op === 'cast' && isHalf(graph.types[node.inputs[0]].dtype);
  };
  for (const { op, inputs } of graph.nodes)
    if (op === 'matmul' || op === 'groupedMatmul')
      assert.deepEqual(inputs.slice(0, 2).map(widened), [true, false], `${op} %${inputs.join(' %')}`);
});

test('the default model needs at most 0.6 of the memory of float32 for activations with bfloat16', async () => {
  const arena = async (precision: Precision): Promise<number> => {
    const model = new TransformerLM({
      vocab: 256,
      dModel: 128,
      layers: 4,
      heads: 4,
      context: 64,
      moe: { experts: 8, topK: 2, hidden: 256, capacity: 'dropless' },
    });
    await using session = await open(model, { precision, device: 'reference' });
    return compileGraph(session.trainGraph(toyBatch(0, 12, 64, 256))).program.slabs.arena;
  };
  const [wide, short] = [await arena('float32'), await arena('bfloat16')];
  assert.ok(short <= 0.6 * wide, `${short} bytes, float32 ${wide}`);
});

test('a precision that does not exist is refused', async () => {
  await assert.rejects(open(toyLM(), { precision: 'float16' as Precision }), /precision .*float32, bfloat16/);
});
