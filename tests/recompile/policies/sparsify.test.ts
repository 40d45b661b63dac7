// The policy sparsify: top-2 becomes top-1 if second choices have nearly no weight, and top-2 again if they would have
// some.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hostTensor } from '../../../src/base/tensor.ts';
import { meanSquaredError } from '../../../src/nn/loss.ts';
import { MoE } from '../../../src/nn/moe/moe.ts';
import { RunStats } from '../../../src/observe/run-stats.ts';
import { sgd } from '../../../src/optim/sgd.ts';
import { draftOf } from '../../../src/recompile/draft.ts';
import type { RecompileEvent } from '../../../src/recompile/rule.ts';
import { sparsify } from '../../../src/recompile/policies/sparsify.ts';
import { compile } from '../../../src/session/node.ts';
import { normals } from '../../nn/moe/layer.ts';

class Model {
  moe = new MoE({ dModel: 4, experts: 4, topK: 2, hidden: 8 });
  forward(x: Parameters<MoE['forward']>[0]): ReturnType<MoE['forward']> {
    return this.moe.forward(x);
  }
}

/** Statistics of a run of `steps` steps in which second choices have the mean weight `weight`. */
function run(steps: number, weight: number): RunStats {
  const stats = new RunStats();
  for (let i = 1; i <= steps + 1; i++) {
    stats.show({
      step: i,
      loss: 1,
      ms: 1,
      stats: {
        'moe/load': hostTensor('int32', [4], Int32Array.of(4, 4, 4, 4)),
        'moe/secondGateWeight': hostTensor('float32', [], Float32Array.of(weight)),
      },
    });
  }
  return stats;
}

test('topK is 1 below `below`, 2 above `above`, unchanged between; only after `cooldown` steps', () => {
  const rule = sparsify({ below: 0.1, above: 0.3, cooldown: 32 }),
    want = (topK: number, weight: number): number => {
      const model = new Model();
      model.moe.topK = topK;
      const draft = draftOf<object>(model);
      rule.alter(draft.model, run(32, weight));
      return Number(draft.changes()[0]?.to ?? topK);
    };
  assert.deepEqual(
    [want(2, 0.05), want(2, 0.2), want(1, 0.2), want(1, 0.4), want(3, 0.01), want(2, NaN), want(1, NaN)],
    [1, 2, 1, 2, 3, 2, 1],
  );
  assert.deepEqual(
    [rule.trigger(run(16, 0)), rule.trigger(run(32, 0)), rule.trigger(run(33, 0))],
    [false, true, false],
  );
});

test('a run: with a confident router topK becomes 1, and 2 again with an unsure one', async () => {
  const model = new Model(),
    events: RecompileEvent[] = [];
  await using session = await compile(model, {
    loss: meanSquaredError,
    optimizer: sgd({ lr: 0 }),
    device: 'wasm',
    threads: 1,
    memory: 128e6,
    events: (e) => events.push(e),
  });
  session.recompile(sparsify({ cooldown: 16 }));
  const values = normals('x', 64),
    batch = { x: hostTensor('float32', [16, 4], values), y: hostTensor('float32', [16, 4], normals('y', 64)) };
  const router = (scale: number): void => {
    void session.restore(session.steps, [
      {
        name: 'moe.router.weight',
        value: hostTensor(
          'float32',
          [4, 4],
          normals('w', 16).map((v) => v * scale),
        ),
      },
    ]);
  };
  await session.prepare(batch);
  router(1000);
  for (let i = 0; i < 70; i++) await session.step(batch);
  assert.equal(session.settings('moe')['topK'], 1);
  router(0.01);
  for (let i = 0; i < 110; i++) await session.step(batch);
  assert.equal(session.settings('moe')['topK'], 2);
  assert.deepEqual(
    events.map((e) => [e.class, e.kept, e.changes.map((c) => c.to)]),
    [
      ['R', true, [1]],
      ['R', true, [2]],
    ],
  );
  assert.match(events[0].reason, /^mean weight of second choices: 0\.0/);
});
