// Random graphs: which values are stored, fused, computed again, planned into shared memory or run at the same time
// must not change a result. They consist of smooth ops over tensors [R, C], [R], [C] and [], with several outputs; in
// some, R is counted at run time.
import fc from 'fast-check';
import { add } from '../../../src/graph/ops/elementwise/add.ts';
import { concat } from '../../../src/graph/ops/shape/concat.ts';
import { div } from '../../../src/graph/ops/elementwise/div.ts';
import { exp } from '../../../src/graph/ops/elementwise/exp.ts';
import { expand } from '../../../src/graph/ops/shape/expand.ts';
import { gather } from '../../../src/graph/ops/shape/gather.ts';
import { gelu } from '../../../src/graph/ops/elementwise/gelu.ts';
import { matmul } from '../../../src/graph/ops/matmul/matmul.ts';
import { mul } from '../../../src/graph/ops/elementwise/mul.ts';
import { reshape } from '../../../src/graph/ops/shape/reshape.ts';
import { sigmoid } from '../../../src/graph/ops/elementwise/sigmoid.ts';
import { slice } from '../../../src/graph/ops/shape/slice.ts';
import { softmax } from '../../../src/graph/ops/reduce/softmax.ts';
import { sub } from '../../../src/graph/ops/elementwise/sub.ts';
import { mean, sum } from '../../../src/graph/ops/reduce/sum.ts';
import { tanh } from '../../../src/graph/ops/elementwise/tanh.ts';
import { transpose } from '../../../src/graph/ops/shape/transpose.ts';
import { layerNorm } from '../../../src/graph/ops/reduce/layerNorm.ts';
import { rmsNorm } from '../../../src/graph/ops/reduce/rmsNorm.ts';
import type { Tensor } from '../../../src/graph/tensor.ts';
import type { Case, DimSpec, InputSpec } from '../harness.ts';
import type { Family } from '../shapes.ts';

/** The tensors that a step of a recipe may use: inputs, and results of earlier steps. */
interface Pool {
  readonly rows: Tensor[];
  readonly columns: Tensor[];
  readonly matrices: Tensor[];
  readonly weights: Tensor[];
  readonly index: Tensor;
}

const last = <T>(list: readonly T[], i: number): T => list[Math.max(0, list.length - 1 - (i % 3))];
/** Scales values so that no function saturates; differences of nearly equal results would be rounding errors only. */
const bounded = (x: Tensor): Tensor => tanh(mul(x, 0.1));

/**
 * Each step takes tensors from the pool and adds its results to the pool. `a` and `b` choose among the newest three.
 */
const STEPS: Readonly<Record<string, (p: Pool, a: number, b: number) => void>> = {
  activate: (p, a, b) => {
    p.matrices.push([gelu, sigmoid, tanh][b % 3](last(p.matrices, a)));
  },
  combine: (p, a, b) => {
    p.matrices.push([add, sub, mul][(a + b) % 3](last(p.matrices, a), last(p.matrices, b)));
  },
  divide: (p, a, b) => {
    p.matrices.push(div(last(p.matrices, a), add(exp(bounded(last(p.matrices, b))), 1)));
  },
  bias: (p, a, b) => {
    p.matrices.push(add(last(p.matrices, a), last(p.columns, b)));
  },
  scaleRows: (p, a, b) => {
    const x = last(p.matrices, a);
    p.matrices.push(mul(x, expand(bounded(last(p.rows, b)), x, [1])));
  },
  sumRows: (p, a) => {
    p.rows.push(bounded(sum(last(p.matrices, a), [1])));
  },
  sumColumns: (p, a) => {
    p.columns.push(bounded(sum(last(p.matrices, a), [0])));
  },
  square: (p, a) => {
    const x = last(p.rows, a);
    p.rows.push(mul(x, x));
  },
  center: (p, a) => {
    const x = last(p.matrices, a);
    p.matrices.push(sub(x, expand(mean(x, [1]), x, [1])));
  },
  softmax: (p, a) => {
    p.matrices.push(softmax(last(p.matrices, a)));
  },
  norm: (p, a, b) => {
    p.matrices.push(rmsNorm(last(p.matrices, a), last(p.columns, b), 0.1));
  },
  layerNorm: (p, a, b) => {
    p.matrices.push(layerNorm(last(p.matrices, a), last(p.columns, b), last(p.columns, a), 0.1));
  },
  multiply: (p, a, b) => {
    p.matrices.push(bounded(matmul(last(p.matrices, a), last(p.weights, b))));
  },
  multiplyTurned: (p, a, b) => {
    p.matrices.push(bounded(matmul(last(p.matrices, a), last(p.weights, b), { transB: true })));
  },
  gram: (p, a, b) => {
    p.weights.push(bounded(matmul(last(p.matrices, a), last(p.matrices, b), { transA: true })));
  },
  turn: (p, a) => {
    p.weights.push(transpose(last(p.weights, a)));
  },
  halves: (p, a) => {
    const x = last(p.matrices, a),
      n = x.shape[1] as number,
      h = n >> 1;
    p.matrices.push(concat([slice(x, 1, h, n), slice(x, 1, 0, h)], 1));
  },
  fold: (p, a) => {
    const x = last(p.matrices, a),
      [r, c] = x.shape;
    if (typeof r !== 'number') return;
    p.matrices.push(reshape(tanh(reshape(x, [r * (c as number)])), [r, c as number]));
  },
  pick: (p, a, b) => {
    p.matrices.push(add(last(p.matrices, a), gather(last(p.weights, b), p.index)));
  },
};

const NAMES = Object.keys(STEPS);
const recipe = fc.record({
  rows: fc.constantFrom(1, 3, 16, 21),
  columns: fc.constantFrom(2, 4, 17, 32),
  counted: fc.option(fc.double({ min: 0, max: 1, noNaN: true }), { freq: 2 }),
  steps: fc.array(fc.tuple(fc.constantFrom(...NAMES), fc.nat(5), fc.nat(5)), { minLength: 2, maxLength: 14 }),
  outputs: fc.array(fc.nat(20), { minLength: 1, maxLength: 3 }),
});

const graphs = recipe.map(({ rows, columns, counted, steps, outputs }): Case => {
  const first: DimSpec = counted === null ? rows : { bound: rows, count: 'n' };
  const inputs: InputSpec[] = [
    { name: 'n', dtype: 'int32', shape: [], data: [Math.max(1, Math.round((counted ?? 1) * rows))] },
    { name: 'index', dtype: 'int32', shape: [first], value: ({ uniform }) => Math.floor(uniform * columns) },
    { name: 'x', shape: [first, columns] },
    { name: 'y', shape: [first, columns] },
    { name: 'r', shape: [first] },
    { name: 'c', shape: [columns] },
    { name: 'd', shape: [columns] },
    { name: 'w', shape: [columns, columns] },
  ];
  return {
    inputs,
    build([, index, x, y, r, c, d, w]) {
      const pool: Pool = { rows: [r], columns: [c, d], matrices: [x, y], weights: [w], index };
      for (const [name, a, b] of steps) STEPS[name](pool, a, b);
      const made = [pool.matrices, pool.rows, pool.columns, pool.weights].flat().filter((t) => t.id > w.id);
      const chosen = [...new Set(outputs.map((i) => made[i % Math.max(1, made.length)] ?? mul(x, 2)))];
      return made.length > 0 ? [...new Set([...chosen, made[made.length - 1]])] : chosen;
    },
  };
});

export const families: readonly Family[] = [{ op: 'random graphs', cases: graphs, runs: 40 }];
