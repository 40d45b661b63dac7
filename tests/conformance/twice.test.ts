// Gradients of gradients: for every op whose rules compose, the gradient of a weighted sum of gradients (a
// Hessian-vector product) against finite differences in float64. The table names the ops that can be differentiated but
// not twice; to do so is an error that names the op.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { UserError } from '../../src/base/errors.ts';
import { ops } from '../../src/graph/ops/index.ts';
import { all } from './cases/index.ts';
import { buildCase, checkGradients } from './harness.ts';

/** Op -> the op of its gradient that has no rule. */
const ONCE: Readonly<Record<string, RegExp>> = {
  // Its gradients compute the scores again in tiles; theirs would have to, too.
  attention: /attentionGrad(Q|KV)?\b.*matmul, softmax, matmul/,
};

/** Ops without a gradient: their results are whole numbers or bools, or they are gradients of attention. */
const NEVER: readonly string[] = ['attentionGrad', 'attentionGradKV', 'attentionGradQ'];

const RUNS = 6; // draws of a family

for (const f of all) {
  const op = ops.get(f.op),
    once = ONCE[f.op];
  const title = f.name ? `${f.op}, ${f.name}` : f.op;
  if (!op?.grad) continue;
  if (once) {
    test(`${title}: twice is an error`, () => {
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
    test(`${title}: twice`, () => {
      fc.assert(
        fc.property(f.cases, fc.nat(), (c, seed) => {
          checkGradients(c, seed, 2);
        }),
        { seed: 1, numRuns: Math.min(RUNS, f.differences ?? RUNS) },
      );
    });
  }
}

test('an op without a gradient has no float result that depends on floats, or is in the table', () => {
  const silent: readonly string[] = [...ops.values()]
    .filter((op) => !op.grad && !NEVER.includes(op.name))
    .map((op) => op.name);
  for (const f of all.filter((x) => silent.includes(x.op))) {
    // If a float result depended on a float input, this would be an error.
    for (const c of fc.sample(f.cases, { seed: 1, numRuns: 10 })) buildCase(c);
  }
});
