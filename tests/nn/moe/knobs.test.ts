// Knobs of a layer: setters check values, a change of capacity compiles no kernel, frozen experts keep every bit.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hostTensor } from '../../../src/base/tensor.ts';
import { Linear } from '../../../src/nn/linear.ts';
import { meanSquaredError } from '../../../src/nn/loss.ts';
import { MoE, type MoEOptions } from '../../../src/nn/moe/moe.ts';
import { SigmoidRouter } from '../../../src/nn/moe/routers.ts';
import { adamW } from '../../../src/optim/adam.ts';
import { sgd } from '../../../src/optim/sgd.ts';
import { compileGraph, traceGraph, trainingGraph } from '../../../src/pipeline.ts';
import { compile } from '../../../src/session/node.ts';
import { NonFiniteError } from '../../../src/session/step.ts';
import { nameParameters } from '../../../src/trace/module.ts';
import { call } from '../../../src/trace/trace.ts';
import { compiledDevice, layerGraph, normals } from './layer.ts';
import { fingerprint, noCompiler } from '../../support/toy.ts';
import { anyMoE } from '../../support/moe.ts';

const make = (options: Partial<MoEOptions> = {}): MoE =>
  anyMoE({ dModel: 8, experts: 4, topK: 2, hidden: 12, ...options });

test('setters refuse invalid values and keep the old value', () => {
  const moe = make({ capacity: 1.5 });
  const bad: [() => void, RegExp][] = [
    [
      () => {
        moe.topK = 5;
      },
      /topK must be from 1 to the number of experts \(4\), got 5/,
    ],
    [
      () => {
        moe.topK = 1.5;
      },
      /topK/,
    ],
    [
      () => {
        moe.capacity = -1;
      },
      /capacity must be 'dropless'.*got -1/,
    ],
    [
      () => {
        moe.capacity = [1, 2];
      },
      /list of 4 factors, got \[1,2\]/,
    ],
    [
      () => {
        moe.capacity = NaN;
      },
      /capacity/,
    ],
    [
      () => {
        moe.dispatch = 'sparse' as 'ragged';
      },
      /no dispatch named sparse\n.*ragged, padded, einsum, dense/,
    ],
    [
      () => {
        moe.overflow = 'lose' as 'drop';
      },
      /no overflow named lose/,
    ],
    [
      () => {
        moe.priority = 'luck' as 'probs';
      },
      /no priority named luck/,
    ],
    [
      () => {
        moe.frozen = [true];
      },
      /frozen must be true, false, or a list of 4/,
    ],
    [() => make({ losses: { fairness: 1 } as object }), /no loss named fairness/],
    [() => make({ experts: 0 }), /experts must be a whole number of at least 1/],
    [() => new MoE({ dModel: 8, experts: 4, topK: 2 }), /needs `hidden`/],
    [() => make({ router: new SigmoidRouter({ dModel: 8, experts: 3 }) }), /4 experts, the router knows 3/],
  ];
  for (const [change, message] of bad) assert.throws(change, { name: 'UserError', message });
  assert.deepEqual(
    [moe.topK, moe.capacity, moe.dispatch, moe.overflow, moe.priority, moe.frozen],
    [2, 1.5, 'ragged', 'drop', 'position', [false, false, false, false]],
  );
  const list = [1, 2, 3, 4];
  moe.capacity = list;
  list[0] = 9;
  assert.deepEqual(moe.capacity, [1, 2, 3, 4]);
  const modules = new MoE({ dModel: 8, experts: [new Linear(8, 8), new Linear(8, 8)], topK: 1 });
  modules.frozen = [false, true];
  assert.deepEqual(modules.frozen, [false, true]);
});

for (const dispatch of ['ragged', 'padded'] as const) {
  for (const experts of [4, [new Linear(8, 8), new Linear(8, 8), new Linear(8, 8), new Linear(8, 8)]]) {
    const kind = typeof experts === 'number' ? 'bank' : 'modules';
    test(`${dispatch}, ${kind}: another capacity runs the same kernels`, () => {
      const moe = make({ dispatch, experts, bias: true, activation: 'swiglu' });
      const keys = (capacity: number | number[]): { keys: string[]; arena: number } => {
        moe.capacity = capacity;
        const { kernels, program } = compileGraph(layerGraph(moe, [64, 8]));
        return { keys: kernels.map((k) => k.key).sort(), arena: program.slabs.arena };
      };
      const one = keys(1);
      for (const capacity of [0.01, 0.3, 1.25, 2, 4, 8, [0.1, 3, 1, 0.5]])
        assert.deepEqual(keys(capacity).keys, one.keys, `${String(capacity)}`);
      if (dispatch === 'padded')
        assert.ok(keys(2).arena > one.arena, 'another capacity plans another amount of memory');
    });
  }
}

const skip = compiledDevice !== 'native' && noCompiler;
const batch = (step: number) => ({
  x: hostTensor('float32', [32, 8], normals(`x${step}`, 256)),
  y: hostTensor('float32', [32, 8], normals(`y${step}`, 256)),
});

test('frozen experts keep every bit of values and moments; the other experts learn', { skip }, async () => {
  const moe = make({ bias: true });
  moe.frozen = [false, true, false, true];
  await using session = await compile(moe, {
    loss: meanSquaredError,
    optimizer: adamW({ lr: 0.01, weightDecay: 0.1 }),
  });
  const part = (name: string): string[] => {
    const { data, shape } = session.executor.peekState(name),
      n = data.length / shape[0];
    return [0, 1, 2, 3].map((e) => data.slice(e * n, (e + 1) * n).join());
  };
  await session.prepare(batch(0));
  const names = ['experts.w1', 'experts.b2', 'optim/m/experts.w1'],
    before = names.map(part);
  for (let i = 0; i < 3; i++) await session.step(batch(i));
  names.map(part).forEach((after, n) => {
    after.forEach((value, e) => {
      assert.equal(value === before[n][e], e % 2 === 1, `${names[n]} of expert ${e}`);
    });
  });
});

test('all experts frozen: only the router learns', { skip }, async () => {
  const moe = make();
  moe.frozen = true;
  await using session = await compile(moe, {
    loss: meanSquaredError,
    optimizer: adamW({ lr: 0.01, weightDecay: 0.1 }),
  });
  await session.prepare(batch(0));
  const before = fingerprint(session);
  await session.step(batch(0));
  const after = fingerprint(session);
  assert.deepEqual(
    Object.keys(after).filter((n) => after[n] !== before[n] && !n.startsWith('optim/')),
    ['router.weight'],
  );
});

for (const experts of [4, 'modules'] as const)
  for (const accumulate of [1, 2]) {
    test(
      `frozen experts do not count in the gradient norm and in clipping: ${experts}, accumulate ${accumulate}`,
      { skip },
      async () => {
        const frozen = [false, true, false, true];
        /**
         * The gradient norm of a step, and by parameter how much each value fell: with SGD at rate 1, its gradient.
         */
        const step = async (
          parts: boolean | boolean[],
          clip?: number,
        ): Promise<{ norm: number; fell: Map<string, number[]> }> => {
          const moe = make({
            bias: true,
            ...(experts === 'modules' && { experts: [0, 1, 2, 3].map(() => new Linear(8, 8)) }),
          });
          moe.frozen = parts;
          await using session = await compile(moe, {
            loss: meanSquaredError,
            optimizer: sgd({ lr: 1, ...(clip !== undefined && { clip }) }),
            seed: 2,
            accumulate,
          });
          await session.prepare(batch(0));
          const all = (): Map<string, number[]> =>
              new Map(
                session
                  .states()
                  .filter((s) => !s.name.startsWith('optim/'))
                  .map((s) => [s.name, Array.from(s.read().data, Number)]),
              ),
            before = all();
          const { gradNorm } = await session.step(batch(0));
          return {
            norm: gradNorm,
            fell: new Map(
              [...all()].map(([name, now]) => [name, now.map((x, i) => (before.get(name)?.[i] ?? NaN) - x)]),
            ),
          };
        };
        const free = await step(false),
          held = await step(frozen);
        const learns = (name: string, i: number, n: number): boolean =>
          !name.startsWith('experts.') || !frozen[experts === 4 ? Math.floor((4 * i) / n) : Number(name.split('.')[1])];
        const norm = Math.sqrt(
          [...free.fell].reduce(
            (sum, [name, g]) => g.reduce((s, x, i) => s + (learns(name, i, g.length) ? x * x : 0), sum),
            0,
          ),
        );
        assert.ok(norm < 0.99 * free.norm, 'without freezing, the frozen experts have gradients');
        assert.ok(Math.abs(held.norm / norm - 1) < 1e-4, `${held.norm} against ${norm}`);
        const clipped = await step(frozen, norm / 2);
        for (const [name, g] of held.fell)
          clipped.fell.get(name)?.forEach((x, i) => {
            assert.ok(Math.abs(x - g[i] / 2) < 1e-5, `${name} ${i}`);
          });
      },
    );
  }

test('an optimiser step with frozen experts needs no more memory', () => {
  const arena = (parts: boolean[], mask: boolean): number => {
    const moe = make({ hidden: 512 }),
      named = nameParameters(moe),
      type = { dtype: 'float32' as const, shape: [32, 8] };
    const forward = traceGraph(named, true, (t) => {
      const loss = meanSquaredError(call(moe, t.input('input', 'x', type)), t.input('input', 'y', type));
      t.output('loss', loss);
      t.output('total', loss);
    });
    const frozen = new Map(mask ? ['experts.w1', 'experts.w2'].map((name) => [name, { parts, axis: 0 }]) : []);
    return compileGraph(trainingGraph(forward, sgd({ lr: 1, clip: 1 }), [...named.parameters.keys()], { frozen }))
      .program.slabs.arena;
  };
  assert.equal(arena([false, true, false, true], true), arena([], false));
});

test("a failed step does not change a router's own state", { skip }, async () => {
  const moe = make({ router: new SigmoidRouter({ dModel: 8, experts: 4, biasRate: 0.5 }), topK: 1 });
  await using session = await compile(moe, { loss: meanSquaredError, optimizer: adamW({ lr: 0.01 }) });
  const bias = (): number[] => Array.from(session.executor.peekState('router.bias').data);
  const { stats } = await session.step(batch(0)),
    load = Array.from(stats['/load'].data);
  assert.deepEqual(
    bias(),
    load.map((n) => 0.5 * Math.sign(8 - n)),
  );
  const before = fingerprint(session),
    broken = batch(1);
  broken.y.data[0] = Infinity;
  await assert.rejects(session.step(broken), NonFiniteError);
  assert.deepEqual(fingerprint(session), before);
});
