// A layer over a number of tokens that is known only at run time has the bits of the layer over a fixed number: output,
// losses, statistics, gradients, states after the step; for every router, dispatch and setting. Rows past the count are
// NaN and change nothing.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { cast } from '../../../src/graph/ops/elementwise/cast.ts';
import { mul } from '../../../src/graph/ops/elementwise/mul.ts';
import { sub } from '../../../src/graph/ops/elementwise/sub.ts';
import { softmax } from '../../../src/graph/ops/reduce/softmax.ts';
import { mean } from '../../../src/graph/ops/reduce/sum.ts';
import { topK } from '../../../src/graph/ops/reduce/topK.ts';
import type { Tensor } from '../../../src/graph/tensor.ts';
import { GraphBuilder } from '../../../src/graph/builder.ts';
import { ops } from '../../../src/graph/ops/index.ts';
import { expertCapacity } from '../../../src/graph/ops/moe/expertCapacity.ts';
import { retype } from '../../../src/graph/retype.ts';
import { Linear } from '../../../src/nn/linear.ts';
import { MLP } from '../../../src/nn/mlp.ts';
import { capacityRows, factorsOf, shareOf } from '../../../src/nn/moe/capacity.ts';
import { ExpertChoiceRouter } from '../../../src/nn/moe/fixed-routers.ts';
import { MoE } from '../../../src/nn/moe/moe.ts';
import { aggregate, aggregateSpec, cache, groupBy } from '../../../src/nn/moe/operators.ts';
import { compileGraph, loadProgram } from '../../../src/pipeline.ts';
import { ProgramExecutor } from '../../../src/run/program.ts';
import { Knobs } from '../../../src/trace/knobs.ts';
import { nameParameters } from '../../../src/trace/module.ts';
import { call, traceOf } from '../../../src/trace/trace.ts';
import { PoisonedDevice } from '../../conformance/poisoned.ts';
import { D, E, layerOf, openDevices, settings } from './any-layer.ts';
import { rowsGraph, runRows, type Tokens } from './rows.ts';

const open = await openDevices();

/** The same count with room for more, or as samples of which some are empty. */
const counted: fc.Arbitrary<readonly Tokens[]> = fc
  .tuple(fc.constantFrom(1, 2, 15, 43, 64), fc.constantFrom(1, 30, 200), fc.array(fc.nat(64), { maxLength: 4 }))
  .map(([count, more, cuts]) => [
    { count },
    { count, bound: count + more },
    {
      count,
      bound: count + more,
      offsets: [0, ...cuts.map((c) => Math.min(c, count)).sort((a, b) => a - b), count, count],
    },
  ]);

for (const [name, device] of open)
  test(`${name}: random layers over a counted number of tokens have the bits of a fixed number`, async () => {
    await fc.assert(
      fc.asyncProperty(settings, counted, fc.boolean(), async (set, [fixed, ...others], training) => {
        const options = { training, ids: true },
          expected = await runRows(layerOf(set), device, fixed, options);
        for (const tokens of others)
          assert.deepEqual(await runRows(layerOf(set), device, tokens, options), expected, JSON.stringify(tokens));
      }),
      // The C compiler takes most of the time.
      { numRuns: name === 'native' ? 10 : 50, seed: 3 },
    );
  });

for (const [name, device] of open)
  test(`${name}: more experts than sums are written out for`, async () => {
    const layer = (): MoE =>
      new MoE({
        dModel: D,
        experts: 20,
        topK: 2,
        hidden: 8,
        router: new ExpertChoiceRouter({ dModel: D, experts: 20 }),
        losses: { balance: 1 },
      });
    assert.deepEqual(
      await runRows(layer(), device, { count: 30, bound: 77 }),
      await runRows(layer(), device, { count: 30 }),
    );
  });

for (const [name, device] of open)
  test(`${name}: more tokens than are summed in one chunk`, async () => {
    for (const dispatch of ['ragged', 'dense'] as const) {
      const layer = (): MoE => new MoE({ dModel: D, experts: 4, topK: 2, hidden: 8, bias: true, dispatch, shared: 7 });
      assert.deepEqual(
        await runRows(layer(), device, { count: 5000, bound: 6000 }),
        await runRows(layer(), device, { count: 5000 }),
      );
    }
  });

test('no tokens at all: losses, statistics and gradients are 0', async () => {
  for (const device of open.values())
    for (const dispatch of ['ragged', 'padded', 'einsum', 'dense'] as const) {
      const moe = new MoE({
        dModel: D,
        experts: E,
        topK: 2,
        hidden: 8,
        shared: 9,
        dispatch,
        capacity: 1,
        losses: { balance: 0.1, gshard: 0.2, importance: 0.3, z: 0.1 },
      });
      const found = await runRows(moe, device, { count: 0, bound: 40 });
      assert.ok(Object.keys(found).length > 12);
      for (const [name, values] of Object.entries(found))
        assert.ok(
          values.every((v) => Object.is(Math.abs(v), 0)),
          `${name}: ${values.slice(0, 3).join()}`,
        );
    }
});

for (const [name, device] of open)
  test(`${name}: capacities at run time are the integers of the host`, async () => {
    const factor = fc.oneof(
        fc.double({ min: 0, max: 4, noNaN: true }),
        fc.double({ min: 0, max: 1e300, noNaN: true }),
        fc.constantFrom(0, 0.1, 1 / 3, 1, 1.25, 2, 5e-324),
        fc.integer({ min: 0, max: 1000 }).map((n) => n / 8),
      ),
      bound = 4096;
    for (const k of [1, 2, 7])
      for (const experts of [1, 3, 8, 61]) {
        const b = new GraphBuilder(ops),
          count = b.input('input', 'count', { dtype: 'int32', shape: [] }),
          choices = b.input('input', 'choices', {
            dtype: 'int32',
            shape: [{ kind: 'bounded', bound, count: count.id }, k],
          }),
          factors = b.input('input', 'factors', { dtype: 'float64', shape: [experts] }),
          active = Array.from({ length: experts }, (_, e) => e % 4 !== 1);
        b.output('rows', expertCapacity(factors, choices, { share: shareOf(experts, active) }));
        const executor = new ProgramExecutor(new PoisonedDevice(device)),
          loaded = await loadProgram(executor, compileGraph(b.build(), device.target));
        try {
          await fc.assert(
            fc.asyncProperty(
              fc.array(factor, { minLength: experts, maxLength: experts }),
              fc.integer({ min: 0, max: bound }),
              async (capacity, tokens) => {
                const { rows } = await executor.run(loaded, {
                  count: Int32Array.of(tokens),
                  choices: new Int32Array(bound * k),
                  factors: Float64Array.from(factorsOf(capacity, experts, active)),
                });
                const expected = capacityRows(capacity, experts, tokens * k, active)?.map((c) => Math.min(c, tokens));
                assert.deepEqual(Array.from(rows.data), expected);
              },
            ),
            { numRuns: 60, seed: 1 },
          );
        } finally {
          await executor.close();
        }
      }
  });

test('another capacity of a traced graph gives what tracing again gives', () => {
  for (const chosen of [false, true])
    for (const dispatch of ['ragged', 'padded'] as const)
      for (const overflow of ['drop', 'spill'] as const)
        for (const modules of [false, true]) {
          const moe = layerOf({
            router: chosen ? 'expert choice' : 'top-k',
            dispatch,
            overflow,
            modules,
            capacity: 1,
            priority: 'choice',
            recompute: false,
            chunks: 1,
            topK: 2,
            free: false,
          });
          const tokens = { count: 50, bound: 90 },
            options = modules ? {} : { mask: new Array<boolean>(50).fill(true) },
            { graph } = compileGraph(rowsGraph(moe, tokens, options)),
            knobs = new Knobs(nameParameters(moe)),
            was = knobs.all();
          moe.capacity = [0.3, 1, 0, 0.7, 2, 0.5];
          const edits = knobs.edits(graph, was);
          assert.ok(edits, 'the graph can be resized without tracing');
          const want = compileGraph(rowsGraph(moe, tokens, options)).graph,
            got = retype(graph, ops, edits);
          assert.deepEqual(got.types, want.types);
          assert.deepEqual(got.nodes, want.nodes);
          assert.deepEqual(got.inputs, want.inputs);
        }
});

/** The paper's operators over experts of the caller. */
class ByHand {
  readonly gate = new Linear(D, 3);
  readonly experts = [new MLP([D, 4, D]), new MLP([D, D]), new MLP([D, 7, D])];
  readonly #capacity: number;
  constructor(capacity: number) {
    this.#capacity = capacity;
  }
  forward(x: Tensor): Tensor {
    const { values, indices } = topK(softmax(call(this.gate, x)), 2),
      { rows, routing } = groupBy(x, indices, { experts: 3, capacity: this.#capacity }),
      outputs = this.experts.map((m, e) => call(m, rows[e]));
    const { loss, gateLoss } = aggregateSpec(outputs, routing, values, x, (y, target) => {
      const away = sub(y, target);
      return mean(mul(away, away), [1]);
    });
    traceOf(x).addLoss(this, 'own', loss, 0.5);
    traceOf(x).addLoss(this, 'gate', gateLoss, 0.25);
    return aggregate(outputs, routing, values);
  }
}

for (const [name, device] of open)
  test(`${name}: groupBy, aggregate and aggregateSpec have the bits of a fixed number`, async () => {
    for (const capacity of [0.5, 3]) {
      const expected = await runRows(new ByHand(capacity), device, { count: 43 });
      assert.deepEqual(await runRows(new ByHand(capacity), device, { count: 43, bound: 90 }), expected);
    }
  });

test('what needs a fixed number of tokens says so', () => {
  const cached = new MoE({ dModel: D, experts: E, topK: 2, hidden: 8, routing: 'watched' }),
    remembers = { cached, forward: (x: Tensor): Tensor => remembering(x, cached) };
  assert.throws(() => rowsGraph(remembers, { count: 8, bound: 16 }), /number of tokens is fixed/);
  const last = { forward: (x: Tensor): Tensor => cast(cache(last, cast(x, 'int32'), { batches: 2 }).value, 'float32') };
  assert.throws(() => rowsGraph(last, { count: 8, bound: 16 }), /cache: a batch whose number of tokens varies/);
});

/** As in a step whose batch has ids. */
function remembering(x: Tensor, moe: MoE): Tensor {
  traceOf(x).samples = 4;
  return call(moe, x);
}
