// Changing a capacity by resizing a compiled graph gives what tracing the model again gives: the same graph, the same
// kernels with the same integers, and a memory plan of about the same size.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { ShapeError } from '../../../src/base/errors.ts';
import { ops } from '../../../src/graph/ops/index.ts';
import { retype } from '../../../src/graph/retype.ts';
import { MLP } from '../../../src/nn/mlp.ts';
import { meanSquaredError } from '../../../src/nn/loss.ts';
import type { MoE, MoEOptions } from '../../../src/nn/moe/moe.ts';
import { ExpertChoiceRouter } from '../../../src/nn/moe/fixed-routers.ts';
import { adamW } from '../../../src/optim/adam.ts';
import { compileGraph, newMemo, recompileGraph, type Compiled } from '../../../src/pipeline.ts';
import { NATIVE } from '../../../src/schedule/target.ts';
import { compile } from '../../../src/session/node.ts';
import { Knobs } from '../../../src/trace/knobs.ts';
import { hostTensor } from '../../../src/base/tensor.ts';
import { normals } from './layer.ts';
import { anyMoE } from '../../support/moe.ts';

const batch = {
  x: hostTensor('float32', [24, 8], normals('x', 192)),
  y: hostTensor('float32', [24, 8], normals('y', 192)),
};
class Two {
  first: MoE;
  second: MoE;
  constructor(a: MoE, b: MoE) {
    this.first = a;
    this.second = b;
  }
  forward(x: Parameters<MoE['forward']>[0]): ReturnType<MoE['forward']> {
    return this.second.forward(this.first.forward(x));
  }
}
const make = (options: Partial<MoEOptions>): MoE =>
  anyMoE({ dModel: 8, experts: 4, topK: 2, hidden: 12, capacity: 1, ...options });

/**
 * The parts of a compilation that must be equal: graph, sizes of slabs (without the arena), constants, kernel calls.
 */
const essence = ({ graph, program, lowered }: Compiled): unknown => ({
  types: graph.types,
  inputs: graph.inputs,
  nodes: graph.nodes,
  slabs: { ...program.slabs, arena: 0 },
  constants: program.constants.map((c) => c.data),
  calls: lowered.calls.map((call) => JSON.stringify({ ...call, kernel: null })).sort(),
});

const kernels = (c: Compiled): string[] => c.kernels.map((k) => k.key).sort();

const factor = fc.integer({ min: 0, max: 40 }).map((n) => n / 8);
const settings = fc.record({
  dispatch: fc.constantFrom('ragged' as const, 'padded' as const),
  overflow: fc.constantFrom('drop' as const, 'spill' as const),
  priority: fc.constantFrom('position' as const, 'choice' as const, 'probs' as const),
  bias: fc.boolean(),
  topK: fc.integer({ min: 1, max: 4 }),
  activation: fc.constantFrom('gelu' as const, 'swiglu' as const),
  chosen: fc.boolean(),
  from: factor,
  to: fc.oneof(factor, fc.array(factor, { minLength: 4, maxLength: 4 })),
});

for (const kind of ['a bank', 'modules'] as const)
  test(`random layers of ${kind}: resizing gives what tracing again gives`, async () => {
    await fc.assert(
      fc.asyncProperty(settings, async ({ from, to, chosen, ...options }) => {
        // Modules of two widths; two of each are equal.
        const experts = kind === 'modules' && { experts: [12, 8, 12, 8].map((width) => new MLP([8, width, 8])) };
        const moe = make({
            ...options,
            capacity: from,
            ...experts,
            ...(chosen && { router: new ExpertChoiceRouter({ dModel: 8, experts: 4 }) }),
          }),
          model = new Two(moe, make({ capacity: 1.5 }));
        await using session = await compile(model, {
          loss: meanSquaredError,
          optimizer: adamW({ lr: 0.01 }),
          device: 'reference',
        });
        const knobs = new Knobs(session.named),
          memo = newMemo(),
          before = compileGraph(session.trainGraph(batch), NATIVE, memo),
          was = knobs.all();
        moe.capacity = to;
        const edits = knobs.edits(before.graph, was);
        assert.ok(edits, 'the graph can be resized without tracing');
        const got = recompileGraph(before, edits, NATIVE, memo),
          want = compileGraph(session.trainGraph(batch));
        assert.deepEqual(essence(got), essence(want));
        // Resizing keeps the order of kernels. A new trace may find an order that needs a little less memory.
        assert.ok(
          got.program.slabs.arena <= 1.1 * want.program.slabs.arena,
          `${got.program.slabs.arena} against ${want.program.slabs.arena}`,
        );
        assert.deepEqual(kernels(got), kernels(before), 'no new kernel is compiled');
      }),
      { numRuns: 60, seed: 5 },
    );
  });

test('if more than sizes changes, the model is traced again', async () => {
  const change = async (model: MoE, alter: (moe: MoE) => void): Promise<unknown> => {
    await using session = await compile(model, {
      loss: meanSquaredError,
      optimizer: adamW({ lr: 0.01 }),
      device: 'reference',
    });
    const knobs = new Knobs(session.named),
      { graph } = compileGraph(session.trainGraph(batch)),
      was = knobs.all();
    alter(model);
    return knobs.edits(graph, was);
  };
  assert.equal(
    await change(make({}), (m) => {
      m.capacity = 'dropless';
    }),
    null,
  );
  assert.equal(
    await change(make({ capacity: 'dropless' }), (m) => {
      m.capacity = 2;
    }),
    null,
  );
  assert.equal(
    await change(make({}), (m) => {
      m.dispatch = 'padded';
      m.capacity = 2;
    }),
    null,
  );
  assert.equal(
    await change(make({ dispatch: 'einsum' }), (m) => {
      m.capacity = 2;
    }),
    null,
  );
  assert.notEqual(
    await change(make({}), (m) => {
      m.capacity = 2;
    }),
    null,
  );
});

test('an attribute that holds the old size, and edits of other attributes, are refused', async () => {
  const moe = make({ dispatch: 'padded' });
  await using session = await compile(moe, {
    loss: meanSquaredError,
    optimizer: adamW({ lr: 0.01 }),
    device: 'reference',
  });
  const { graph } = compileGraph(session.trainGraph(batch)),
    admit = graph.nodes.find((n) => n.op === 'admit');
  assert.ok(admit);
  const rows = Number(admit.attrs['rows']),
    data = new Map<number, never>(),
    edit = (attrs: object): void => {
      retype(graph, ops, { attrs: new Map([[admit, { ...admit.attrs, ...attrs }]]), data });
    };
  edit({ rows: rows + 16 });
  assert.throws(() => {
    edit({ rows: -1 });
  }, ShapeError);
  const user = graph.nodes.find((n) => n.op === 'groupedMatmul');
  assert.ok(user);
  const tagged = {
    ...graph,
    nodes: graph.nodes.map((n) => (n === user ? { ...n, attrs: { ...n.attrs, hidden: [rows] } } : n)),
  };
  assert.throws(
    () => retype(tagged, ops, { attrs: new Map([[admit, { ...admit.attrs, rows: rows + 16 }]]), data }),
    /an attribute of groupedMatmul holds an old size/,
  );
  assert.throws(
    () => retype(graph, ops, { attrs: new Map([[user, user.attrs]]), data }),
    /attributes can change only if they are sizes/,
  );
});
