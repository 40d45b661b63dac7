// A count above its bound counts as the bound and a count below 0 counts as 0, on devices as in the reference. Without
// this, these cases would write far outside the planned memory.
import fc from 'fast-check';
import { add } from '../../src/graph/ops/elementwise/add.ts';
import { attention } from '../../src/graph/ops/attention/attention.ts';
import { rowPosition } from '../../src/graph/ops/attention/rowPosition.ts';
import { groupedMatmul } from '../../src/graph/ops/matmul/groupedMatmul.ts';
import { groupedOuter } from '../../src/graph/ops/matmul/groupedOuter.ts';
import { matmul } from '../../src/graph/ops/matmul/matmul.ts';
import { mul } from '../../src/graph/ops/elementwise/mul.ts';
import { slice } from '../../src/graph/ops/shape/slice.ts';
import { updateRows } from '../../src/graph/ops/shape/updateRows.ts';
import { softmax } from '../../src/graph/ops/reduce/softmax.ts';
import { mean, sum } from '../../src/graph/ops/reduce/sum.ts';
import { permute } from '../../src/graph/ops/moe/permute.ts';
import { dispatch } from '../../src/graph/ops/moe/dispatch.ts';
import { scalar } from '../../src/graph/tensor.ts';
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

const attended = counts.map((n): Case => {
  const rows = { bound: 8, segments: 3, offsets: 'n' };
  return {
    inputs: [
      { name: 'n', dtype: 'int32', shape: [4], data: [0, 3, Math.max(3, n), Math.max(3, n)] },
      { name: 'm', dtype: 'int32', shape: [], data: [n] },
      { name: 'q', shape: [rows, 4, 3] },
      { name: 'k', shape: [rows, 2, 3] },
      { name: 'one', shape: [{ bound: 8, count: 'm' }, 4, 3], grad: false },
      { name: 'cache', shape: [1, 20, 2, 3], grad: false },
    ],
    build: ([, , q, k, one, cache]) => [
      attention(q, k, mul(k, 2), 0, { causal: true }),
      mul(k, k),
      attention(one, cache, cache, 5, { causal: true }),
      rowPosition(q),
      updateRows(cache, mul(slice(one, 1, 0, 2), 2), scalar(q, 15, 'int32')),
    ],
    withoutGradient: [2, 4],
  };
});

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
  { op: 'attention over rows', cases: attended, runs: 14 },
  { op: 'tokens sent to experts', cases: routed, runs: 14 },
]);
