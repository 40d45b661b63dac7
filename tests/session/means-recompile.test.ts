// Rules that recompile while batches are computed in parts whose losses are means over different numbers of targets.
// The dry run of a new plan uses the parts' shares of the step that it is compared with. A change that keeps results
// (class N) keeps every bit.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hostTensor, type Batch } from '../../src/base/tensor.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { crossEntropy } from '../../src/nn/loss.ts';
import type { TransformerLM } from '../../src/nn/transformer.ts';
import { adamW } from '../../src/optim/adam.ts';
import type { RecompileEvent, Rule } from '../../src/recompile/rule.ts';
import { compile } from '../../src/session/node.ts';
import type { Session } from '../../src/session/session.ts';
import { fingerprint, toyBatch, toyLM } from '../support/toy.ts';

const IGNORED = -1;

/**
 * Ignores a number of targets at the end of each sample. The number depends on the step and the sample; for some
 * samples all targets are ignored.
 */
function withIgnoredTargets(step: number, size = 6): Batch {
  const { x, y } = toyBatch(step, size),
    [, time] = y.shape;
  const data = Int32Array.from(y.data, (target, i) =>
    i % time < (step * 5 + Math.floor(i / time) * 7) % (time + 1) ? target : IGNORED,
  );
  return { x, y: hostTensor('int32', y.shape, data) };
}

const loss = (o: Tensor, t: Tensor): Tensor => crossEntropy(o, t, { ignoreIndex: IGNORED });
const padded: Rule<TransformerLM> = {
  name: 'padded',
  budget: 1,
  measure: false,
  trigger: (run) => run.step >= 4,
  alter: (m) => {
    for (const { moe } of m.blocks) if (moe) moe.dispatch = 'padded';
  },
};
const halves: Rule<object> = {
  name: 'halves',
  budget: 1,
  trigger: (run) => run.step >= 4,
  alter: (_, __, outlook) => {
    if (outlook?.session) outlook.session.split = 2;
  },
};

test(
  'a class N change is verified on a step whose parts have different numbers of targets, and keeps every bit',
  { timeout: 120_000 },
  async () => {
    const events: RecompileEvent[] = [];
    const options = {
      loss,
      optimizer: adamW({ lr: 1e-2 }),
      accumulate: 3,
      device: 'wasm',
      threads: 1,
      seed: 4,
    } as const;
    await using ruled: Session = await compile(toyLM(), {
      ...options,
      events: (e) => {
        events.push(e);
      },
    });
    await using plain = await compile(toyLM(), { ...options, observe: true });
    ruled.recompile(padded);
    for (let step = 0; step < 40 || events.length === 0; step++) {
      const [a, b] = [await ruled.step(withIgnoredTargets(step)), await plain.step(withIgnoredTargets(step))];
      assert.deepEqual([a.loss, a.gradNorm], [b.loss, b.gradNorm], `step ${step}`);
    }
    assert.deepEqual(
      events.map((e) => [e.rule, e.class, e.verified, e.kept, e.error]),
      [['padded', 'N', true, true, undefined]],
    );
    assert.deepEqual(fingerprint(ruled), fingerprint(plain));
  },
);

test(
  'parts of a split that a rule sets are weighted: losses equal those of a session whose user sets it at that step',
  { timeout: 120_000 },
  async () => {
    const events: RecompileEvent[] = [];
    const options = { loss, optimizer: adamW({ lr: 1e-2 }), device: 'wasm', threads: 1, seed: 4 } as const;
    await using ruled: Session = await compile(toyLM(), {
      ...options,
      events: (e) => {
        events.push(e);
      },
    });
    await using plain = await compile(toyLM(), { ...options, observe: true });
    ruled.recompile(halves);
    for (let step = 1; step <= 42; step++) {
      plain.batching.split = step >= 38 ? 2 : 1;
      assert.equal(
        (await ruled.step(withIgnoredTargets(step))).loss,
        (await plain.step(withIgnoredTargets(step))).loss,
        `step ${step}`,
      );
    }
    assert.deepEqual(
      events.map((e) => [e.rule, e.class, e.effect, e.verified, e.kept, e.error]),
      [['halves', 'R', 38, true, true, undefined]],
    );
    assert.deepEqual(fingerprint(ruled), fingerprint(plain));
  },
);
