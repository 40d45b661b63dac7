// The graph that ranks run computes what the global graph computes, in the float64 reference, for drawn models.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { compile, loss, nn, optim } from '../../src/index.ts';
import { VerifyError } from '../../src/base/errors.ts';
import type { Graph } from '../../src/graph/graph.ts';
import { ops } from '../../src/graph/ops/index.ts';
import { verifyRanks } from '../../src/passes/ranks/verify.ts';
import { Stream } from '../../src/base/random.ts';
import type { MoEOptions } from '../../src/nn/moe/options.ts';
import { onRanks } from '../support/ranks.ts';

const VOCAB = 11,
  TIME = 4;

/** What a model may be. */
const draws = fc.record({
  ranks: fc.constantFrom(2, 4, 8),
  batch: fc.constantFrom(8, 16, 6), // 6 is not divided by 4 and 8: every rank computes the whole batch
  seed: fc.nat(1000),
  accumulate: fc.constantFrom(1, 1, 2),
  precision: fc.constantFrom('float32' as const, 'float32' as const, 'bfloat16' as const, 'bfloat16-weights' as const),
  optimizer: fc.constantFrom(
    optim.adamW({ lr: 0.01, clip: 1 }),
    optim.lion({ lr: 0.01, clip: 1 }),
    optim.muon({ lr: 0.01, clip: 1 }),
  ),
  dropout: fc.constantFrom(0, 0.1),
  experts: fc.constantFrom(8, 8, 16, 6), // 6 experts are not divided by 4 and 8 ranks: the bank stays whole
  moe: fc.record({
    topK: fc.constantFrom(1, 2),
    activation: fc.constantFrom('gelu' as const, 'swiglu' as const),
    balance: fc.constantFrom(0, 0.01),
    zLoss: fc.constantFrom(0, 0.001),
  }),
  dispatch: fc.constantFrom<Partial<MoEOptions>>(
    {},
    { capacity: 1.25 },
    { capacity: 0.75, priority: 'choice' },
    { capacity: 0.75, priority: 'probs' },
    { capacity: 0.75, overflow: 'spill' },
    { capacity: 0.75, overflow: 'spill', dispatch: 'padded' },
    { capacity: 1.25, dispatch: 'padded' },
    { capacity: 1.25, dispatch: 'einsum' },
    { dispatch: 'dense' },
    { chunks: 2, recompute: true },
    { chunks: 2, capacity: 1.5 },
    { chunks: 2, capacity: 1.5, overflow: 'spill' },
    { recompute: true, bias: true },
    { shared: 6 },
  ),
});

test('ranks compute what one process computes, for drawn models', async () => {
  await fc.assert(
    fc.asyncProperty(
      draws,
      async ({ ranks, batch, seed, accumulate, precision, optimizer, dropout, experts, moe, dispatch }) => {
        const model = new nn.TransformerLM({
          vocab: VOCAB,
          dModel: 8,
          layers: 1,
          heads: 2,
          context: TIME,
          dropout,
          moe: { experts, hidden: 6, ...moe, ...dispatch },
        });
        const session = await compile(model, {
          device: 'reference',
          loss: (output, target) => loss.crossEntropy(output, target),
          optimizer,
          seed,
          accumulate,
          precision,
        });
        try {
          const ids = { dtype: 'int32' as const, shape: [batch, TIME], data: new Int32Array(batch * TIME) },
            example = { x: ids, y: ids };
          for (const graph of [
            session.trainGraph(example, accumulate > 1 ? 'apply' : undefined),
            session.evaluationGraph(example),
          ])
            compared(graph, ranks, seed);
        } finally {
          await session.close();
        }
      },
    ),
    { numRuns: 25 },
  );
});

/** Fails if a rank has another result than one process. */
function compared(graph: Graph, ranks: number, seed: number): void {
  let drawn = 0;
  const stream = new Stream(seed, 'ranks');
  const uniform = (): number => stream.uniform(0, drawn++);
  const { results } = onRanks(
    graph,
    ranks,
    ({ name, kind, data }, size) => {
      if (kind === 'constant') return Float64Array.from(data ?? []);
      if (name === 'x' || name === 'y') return Float64Array.from({ length: size }, () => Math.floor(uniform() * VOCAB));
      if (kind === 'state')
        return Float64Array.from({ length: size }, () => uniform() - (name.startsWith('optim/v') ? 0 : 0.5));
      return new Float64Array(size).fill(['commit', 'seed', 'step', 'part'].includes(name) ? 1 : 0.01);
    },
    (experts) =>
      Array.from({ length: experts }, (_, i) => (i * 3 + seed) % experts).map((e, i) =>
        experts % 3 === 0 ? (i + seed) % experts : e,
      ),
  );
  for (const { name, whole, ranks: all } of results)
    for (const own of all) {
      assert.equal(own.length, whole.length, name);
      own.forEach((v, i) => {
        assert.ok(Math.abs(v - whole[i]) <= 1e-9 * (1e-3 + Math.abs(whole[i])), `${name}[${i}]: ${v}, not ${whole[i]}`);
      });
    }
}

test('the verifier refuses results that differ from rank to rank', () => {
  const graph: Graph = {
    types: [
      { dtype: 'float32', shape: [4], axes: ['batch'] },
      { dtype: 'float32', shape: [4] },
    ],
    inputs: [{ value: 0, name: 'x', kind: 'input' }],
    nodes: [{ op: 'exp', inputs: [0], outputs: [1], attrs: {}, scope: '' }],
    outputs: [{ name: 'loss', value: 1 }],
    updates: [],
  };
  assert.throws(
    () => verifyRanks(graph, ops),
    (e: unknown) => e instanceof VerifyError && /output loss would differ from rank to rank/.test(e.message),
  );
});
