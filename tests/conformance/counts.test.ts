// A count above its bound counts as the bound and a count below 0 counts as 0, on devices as in the reference. Without
// this, these cases would write far outside the planned memory.
import fc from 'fast-check';
import { add } from '../../src/graph/ops/elementwise/add.ts';
import { groupedMatmul } from '../../src/graph/ops/matmul/groupedMatmul.ts';
import { groupedOuter } from '../../src/graph/ops/matmul/groupedOuter.ts';
import { matmul } from '../../src/graph/ops/matmul/matmul.ts';
import { mul } from '../../src/graph/ops/elementwise/mul.ts';
import { softmax } from '../../src/graph/ops/reduce/softmax.ts';
import { mean, sum } from '../../src/graph/ops/reduce/sum.ts';
import { permute } from '../../src/graph/ops/moe/permute.ts';
import { dispatch } from '../../src/graph/ops/moe/dispatch.ts';
import type { Case } from './harness.ts';
import { runFamilies } from './run.ts';

const counts = fc.constantFrom(-5_000_000, -1, 0, 7, 8, 1_000, 5_000_000);

const bounded = counts.map((n): Case => ({
  inputs: [
    { name: 'n', dtype: 'int32', shape: [], data: [n] },
    { name: 'x', shape: [{ bound: 8, count: 'n' }, 5] },
    { name: 'w', shape: [5, 5] },
  ],
  build: ([, x, w]) => [
    add(x, 1),
    sum(mul(x, x), [0]),
    softmax(x),
    matmul(x, w),
    matmul(x, x, { transA: true }),
    mean(mul(x, x), [1]),
  ],
}));

const segmented = counts.map((n): Case => ({
  inputs: [
    { name: 'n', dtype: 'int32', shape: [4], data: [0, 3, Math.max(3, n), Math.max(3, n)] },
    { name: 'x', shape: [{ bound: 8, segments: 3, offsets: 'n' }, 5] },
    { name: 'w', shape: [3, 5, 4] },
  ],
  build: ([, x, w]) => {
    const y = groupedMatmul(x, w);
    return [mul(x, 2), y, groupedOuter(x, y)];
  },
}));

/** Routing where the count of tokens may be larger than the bound. */
const routed = counts.map((n): Case => ({
  inputs: [
    { name: 'n', dtype: 'int32', shape: [], data: [n] },
    {
      name: 'indices',
      dtype: 'int32',
      shape: [{ bound: 8, count: 'n' }, 2],
      value: ({ uniform }) => Math.floor(uniform * 3),
    },
    { name: 'x', shape: [{ bound: 8, count: 'n' }, 5] },
    { name: 'w', shape: [3, 5, 4] },
  ],
  build: ([, indices, x, w]) => {
    const p = permute(indices, 3);
    return [groupedMatmul(dispatch(x, p.order, p.offsets, p.inverse, { k: 2 }), w), p.offsets];
  },
}));

runFamilies([
  { op: 'a bounded dimension', cases: bounded, runs: 14 },
  { op: 'a segmented dimension', cases: segmented, runs: 14 },
  { op: 'tokens sent to experts', cases: routed, runs: 14 },
]);
