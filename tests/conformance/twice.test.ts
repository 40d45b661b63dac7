// Gradients of gradients. For every op whose gradient rule consists of differentiable ops, the gradient of a weighted
// sum of gradients (a Hessian-vector product) is compared with finite differences in float64. The table
// DIFFERENTIABLE_ONCE names the ops that can be differentiated once only; to differentiate them again is an error that
// names the op.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { isFloat } from '../../src/base/dtype.ts';
import { UserError } from '../../src/base/errors.ts';
import { ops } from '../../src/graph/ops/index.ts';
import { all } from './cases/index.ts';
import { buildCase, checkGradients, type Case } from './harness.ts';

/** For each op that can be differentiated once only: the message, which names the gradient op without a rule. */
const DIFFERENTIABLE_ONCE: Readonly<Record<string, RegExp>> = {
  // The gradients of attention compute the scores again, tile by tile. Their own gradients would have to do the same.
  attention: /attentionGrad(Q|KV)?\b.*matmul, softmax, matmul/,
};

/** Ops with float results and without a gradient rule. */
const WITHOUT_RULE: readonly string[] = ['attentionGrad', 'attentionGradKV', 'attentionGradQ'];

const RUNS = 6; // cases drawn from each family

/** Cases of attention over a cache have no gradient to ask for. */
const asksForGradients = ({ inputs }: Case): boolean =>
  inputs.some((i) => i.grad !== false && isFloat(i.dtype ?? 'float32'));

for (const f of all) {
  const op = ops.get(f.op),
    once = DIFFERENTIABLE_ONCE[f.op];
  const title = f.name ? `${f.op}, ${f.name}` : f.op;
  if (!op?.grad || !fc.sample(f.cases, { seed: 1, numRuns: 10 }).some(asksForGradients)) continue;
  if (once) {
    test(`${title}: gradients of gradients are an error`, () => {
      const needed = fc
        .sample(f.cases, { seed: 1, numRuns: 40 })
        .filter((c) => c.inputs.every((i) => i.shape.every((d) => d !== 0)));
      for (const c of needed)
        assert.throws(
          () => buildCase(c, 2),
          (error) => error instanceof UserError && once.test(error.message),
        );
    });
  } else {
    test(`${title}: gradients of gradients`, () => {
      fc.assert(
        fc.property(f.cases, fc.nat(), (c, seed) => {
          checkGradients(c, seed, 2);
        }),
        { seed: 1, numRuns: Math.min(RUNS, f.differences ?? RUNS) },
      );
    });
  }
}

test('an op without a gradient rule has no float result that depends on a float input, or is in WITHOUT_RULE', () => {
  const silent: readonly string[] = [...ops.values()]
    .filter((op) => !op.grad && !WITHOUT_RULE.includes(op.name))
    .map((op) => op.name);
  for (const f of all.filter((x) => silent.includes(x.op))) {
    // buildCase differentiates, which is an error if a float result depends on a float input.
    for (const c of fc.sample(f.cases, { seed: 1, numRuns: 10 })) buildCase(c);
  }
});
