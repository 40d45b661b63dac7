// `recompute` (values are computed again for gradients instead of kept) and `chunks` (a bank in parts) give the same
// bits for every dispatch, capacity, priority, kind of experts and optimiser, on every device, and plan fewer bytes.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { grad } from '../../../src/grad/grad.ts';
import { add } from '../../../src/graph/ops/elementwise/add.ts';
import { mul } from '../../../src/graph/ops/elementwise/mul.ts';
import { sum } from '../../../src/graph/ops/reduce/sum.ts';
import type { Tensor } from '../../../src/graph/tensor.ts';
import { Dropout } from '../../../src/nn/dropout.ts';
import { Linear } from '../../../src/nn/linear.ts';
import { crossEntropy } from '../../../src/nn/loss.ts';
import { MLP } from '../../../src/nn/mlp.ts';
import { ExpertBank } from '../../../src/nn/moe/experts.ts';
import { MoE, type MoEOptions } from '../../../src/nn/moe/moe.ts';
import { TransformerLM } from '../../../src/nn/transformer.ts';
import { adamW } from '../../../src/optim/adam.ts';
import { sgd } from '../../../src/optim/sgd.ts';
import { compileGraph } from '../../../src/pipeline.ts';
import { compile } from '../../../src/session/node.ts';
import { call, traceOf, use } from '../../../src/trace/trace.ts';
import { devices, difference, layerGraph, runLayer, type DeviceName, type Layer, type Numbers } from './layer.ts';
import { anyMoE } from '../../support/moe.ts';
import { fingerprint, toyBatch } from '../../support/toy.ts';

const all: readonly DeviceName[] = [...devices, 'reference'];
const make = (options: Partial<MoEOptions> = {}): MoE =>
  anyMoE({ dModel: 6, experts: 5, topK: 2, hidden: 9, ...options });

const settings = fc.record({
  tokens: fc.constantFrom(1, 64, 129, 400),
  topK: fc.constantFrom(1, 2),
  dispatch: fc.constantFrom('ragged' as const, 'padded' as const),
  activation: fc.constantFrom('gelu' as const, 'swiglu' as const),
  bias: fc.boolean(),
  capacity: fc.constantFrom('dropless' as const, 0.5, 1.25, [0, 3, 0.1, 1, 0.5]),
  overflow: fc.constantFrom('drop' as const, 'spill' as const),
  priority: fc.constantFrom('position' as const, 'choice' as const),
  shared: fc.constantFrom(undefined, 7),
  expertRows: fc.constantFrom(0, 256),
});
const ways = fc.constantFrom({ recompute: true }, { chunks: 2 }, { chunks: 3, recompute: true }, { chunks: 9 });

for (const device of devices) {
  test(`${device}: recompute and chunks have the bits of a layer without them`, async () => {
    await fc.assert(
      fc.asyncProperty(settings, ways, async ({ tokens, shared, ...options }, how) => {
        const own = { ...options, ...(shared !== undefined && { shared }) };
        assert.deepEqual(
          await runLayer(make({ ...own, ...how }), [tokens, 6], { device }),
          await runLayer(make(own), [tokens, 6], { device }),
        );
      }),
      { numRuns: 20, seed: 4 },
    );
  });
}

const modules = (): MoEOptions['experts'] => [
  new MLP([6, 8, 6]),
  new Linear(6, 6),
  new MLP([6, 5, 6]),
  new Linear(6, 6),
  new MLP([6, 4, 6]),
];

for (const device of all) {
  test(`${device}: recompute with modules as experts, and with every dispatch`, async () => {
    for (const dispatch of ['ragged', 'padded', 'einsum', 'dense'] as const)
      for (const experts of [5, modules()])
        for (const capacity of ['dropless', 0.8] as const) {
          const own = { dispatch, experts, capacity } as const;
          assert.deepEqual(
            await runLayer(make({ ...own, recompute: true }), [40, 6], { device }),
            await runLayer(make(own), [40, 6], { device }),
            `${dispatch} ${String(capacity)}`,
          );
        }
  });
}

/**
 * A layer that is used twice. `outer`: both uses are within a recomputed part. `withGradient`: the output contains a
 * gradient.
 */
class Nested implements Layer {
  readonly moe: MoE;
  readonly dropout = new Dropout(0.3);
  readonly outer: boolean;
  readonly withGradient: boolean;
  constructor(outer: boolean, withGradient: boolean, options: Partial<MoEOptions>) {
    this.moe = make({ bias: true, ...options });
    this.outer = outer;
    this.withGradient = withGradient;
  }
  #twice(x: Tensor): Tensor {
    return call(this.moe, call(this.dropout, add(call(this.moe, x), x)));
  }
  forward(x: Tensor): Tensor {
    const y = this.outer ? traceOf(x).recomputed(() => this.#twice(x)) : this.#twice(x);
    if (!this.withGradient || !(this.moe.experts instanceof ExpertBank)) return y;
    const [d] = grad(sum(mul(y, y)), [use(x, this.moe.experts.w2)]);
    return add(y, sum(mul(d, d)));
  }
}

const nested = [{}, { recompute: true }, { chunks: 3 }, { chunks: 2, capacity: 0.5, overflow: 'spill' }] as const;
const withoutSpilled = (r: Numbers): Numbers =>
  Object.fromEntries(Object.entries(r).filter(([n]) => !n.includes('spilled')));

for (const device of all) {
  test(`${device}: recomputed parts within recomputed parts, around a layer that is used twice`, async () => {
    const plain = await runLayer(new Nested(false, false, {}), [150, 6], { device });
    for (const outer of [false, true])
      for (const how of nested) {
        assert.deepEqual(
          withoutSpilled(await runLayer(new Nested(outer, false, how), [150, 6], { device })),
          plain,
          JSON.stringify({ outer, how }),
        );
      }
  });
}

// Recomputed values have gradients of their own, which are added in another order.
test('gradients of gradients differ only by rounding', async () => {
  const plain = await runLayer(new Nested(false, true, {}), [60, 6]);
  for (const how of nested) {
    const got = await runLayer(new Nested(false, true, how), [60, 6]);
    for (const name of Object.keys(plain))
      assert.ok(difference(got[name], plain[name]) < 1e-10, `${name} ${JSON.stringify(how)}`);
  }
});

const lm = (options: object, moe: Partial<MoEOptions>): TransformerLM =>
  new TransformerLM({
    vocab: 17,
    dModel: 16,
    layers: 2,
    heads: 2,
    context: 12,
    dropout: 0.2,
    ...options,
    moe: { experts: 4, topK: 2, hidden: 24, ...moe },
  });

for (const device of devices)
  for (const eager of [false, true]) {
    test(`${device}${eager ? ', eager' : ''}: a language model trains with the same bits`, async () => {
      const trained = async (options: object, moe: Partial<MoEOptions>): Promise<unknown> => {
        await using session = await compile(lm(options, moe), {
          loss: crossEntropy,
          optimizer: eager ? sgd({ lr: 0.1, eager: true }) : adamW({ lr: 0.01, clip: 1 }),
          device,
          threads: 2,
          seed: 1,
          say: () => undefined,
        });
        const losses = [];
        for (let i = 0; i < 3; i++) losses.push((await session.step(toyBatch(i, 12))).loss);
        return { losses, states: fingerprint(session) };
      };
      const plain = await trained({}, {});
      for (const how of [{ recompute: true }, { chunks: 2 }]) assert.deepEqual(await trained({}, how), plain);
      for (const how of [{}, { recompute: true }, { chunks: 2 }])
        assert.deepEqual(await trained({ recompute: true }, how), plain);
    });
  }

test('chunks plan fewer bytes', () => {
  const arena = (options: Partial<MoEOptions>): number =>
    compileGraph(layerGraph(new MoE({ dModel: 128, experts: 8, topK: 2, hidden: 1024, ...options }), [4096, 128]))
      .program.slabs.arena;
  for (const capacity of ['dropless', 1.25] as const) {
    const plain = arena({ capacity }),
      chunks = [2, 4, 8].map((n) => arena({ capacity, chunks: n }) / plain);
    chunks.forEach((share, i) => {
      assert.ok(share < [0.7, 0.45, 0.35][i], `${chunks.join()}`);
    });
  }
  const padded = { dispatch: 'padded', capacity: 2, overflow: 'spill' } as const;
  assert.ok(arena({ ...padded, chunks: 8 }) < 0.45 * arena(padded));
});

test('recompute plans fewer bytes for a model of many blocks', async () => {
  const arena = async (options: object, moe: Partial<MoEOptions> = {}): Promise<number> => {
    const model = new TransformerLM({
      vocab: 32,
      dModel: 64,
      layers: 8,
      heads: 4,
      context: 64,
      ...options,
      moe: { experts: 4, topK: 2, hidden: 256, ...moe },
    });
    await using session = await compile(model, {
      loss: crossEntropy,
      optimizer: sgd({ lr: 0.1, eager: true }),
      device: 'wasm',
      threads: 1,
    });
    return compileGraph(session.trainGraph(toyBatch(0, 32, 64, 32))).program.slabs.arena;
  };
  const plain = await arena({}),
    hidden = await arena({}, { recompute: true }),
    blocks = await arena({ recompute: true }),
    both = await arena({ recompute: true }, { chunks: 4 });
  assert.ok(
    hidden < 0.6 * plain && blocks < 0.35 * plain && both < 0.25 * plain,
    [hidden, blocks, both].map((n) => n / plain).join(),
  );
});

test('invalid settings are refused by name', () => {
  const moe = make();
  const bad: [() => void, RegExp][] = [
    [
      () => {
        moe.chunks = 0;
      },
      /chunks must be a whole number of at least 1, got 0/,
    ],
    [
      () => {
        moe.chunks = 1.5;
      },
      /chunks/,
    ],
    [
      () => {
        moe.recompute = 1 as unknown as boolean;
      },
      /no recompute named 1/,
    ],
    [() => make({ experts: modules(), chunks: 2 }), /modules are not computed in chunks.*\n.*recompute/],
    [() => layerGraph(make({ dispatch: 'einsum', chunks: 2 }), [8, 6]), /dispatch einsum does not compute in chunks/],
    [
      () => {
        lm({}, {}).blocks[0].recompute = 'yes' as unknown as boolean;
      },
      /recompute must be true or false, got yes/,
    ],
  ];
  for (const [change, message] of bad) assert.throws(change, { name: 'UserError', message });
  assert.deepEqual([moe.chunks, moe.recompute], [1, false]);
});
