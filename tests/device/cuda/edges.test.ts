// Rows of experts at the edges of what a product's tiles hold: the text of CUDA kernels, run on the CPU, agrees with
// the reference and has the bits of the native device. Rows past the counts, and memory before a run, hold NaN.
import { after, before, test } from 'node:test';
import { NativeDevice } from '../../../src/device/native/native.ts';
import { add } from '../../../src/graph/ops/elementwise/add.ts';
import { mul } from '../../../src/graph/ops/elementwise/mul.ts';
import { exp } from '../../../src/graph/ops/functions.ts';
import { groupedMatmul } from '../../../src/graph/ops/matmul/groupedMatmul.ts';
import { groupedOuter } from '../../../src/graph/ops/matmul/groupedOuter.ts';
import { combine } from '../../../src/graph/ops/moe/combine.ts';
import { dispatch } from '../../../src/graph/ops/moe/dispatch.ts';
import { permute } from '../../../src/graph/ops/moe/permute.ts';
import { softmax } from '../../../src/graph/ops/reduce/softmax.ts';
import { sum } from '../../../src/graph/ops/reduce/sum.ts';
import { compareDevices, compareWithReference, type Case } from '../../conformance/harness.ts';
import { ShimDevice } from '../../support/cuda/shim.ts';
import { noCompiler } from '../../support/toy.ts';

/** More than two tiles of 64 rows, and no multiple of anything. */
const BOUND = 135,
  EXPERTS = 4,
  [DEPTH, COLUMNS] = [37, 70];

const expertRows = (offsets: readonly number[]): Case => ({
  inputs: [
    { name: 'n', dtype: 'int32', shape: [EXPERTS + 1], data: offsets },
    { name: 'x', shape: [{ bound: BOUND, segments: EXPERTS, offsets: 'n' }, DEPTH] },
    { name: 'w', shape: [EXPERTS, DEPTH, COLUMNS] },
  ],
  build: ([, x, w]) => {
    const y = groupedMatmul(x, w);
    return [exp(mul(y, 0.1)), groupedOuter(x, add(y, 1)), softmax(y), sum(mul(x, x), [0])];
  },
});

/** Tokens of which each chooses two experts: `choice` of the token's number and of the first or second place. */
const routed = (tokens: number, choice: (token: number, place: number) => number): Case => ({
  inputs: [
    { name: 'n', dtype: 'int32', shape: [], data: [tokens] },
    {
      name: 'indices',
      dtype: 'int32',
      shape: [{ bound: BOUND, count: 'n' }, 2],
      data: Array.from({ length: 2 * BOUND }, (_, i) => choice(Math.floor(i / 2), i % 2)),
    },
    { name: 'x', shape: [{ bound: BOUND, count: 'n' }, DEPTH] },
    { name: 'weights', shape: [{ bound: BOUND, count: 'n' }, 2] },
    { name: 'w', shape: [EXPERTS, DEPTH, COLUMNS] },
  ],
  build: ([, indices, x, weights, w]) => {
    const p = permute(indices, EXPERTS),
      y = groupedMatmul(dispatch(x, p.order, p.offsets, p.inverse, { k: 2 }), w);
    return [combine(y, p.inverse, p.order, weights), p.offsets];
  },
});

const CASES: Readonly<Record<string, Case>> = {
  'no rows': expertRows([0, 0, 0, 0, 0]),
  'empty experts': expertRows([0, 0, 70, 70, 100]),
  'one row': expertRows([0, 0, 0, 1, 1]),
  'all rows on one expert': expertRows([0, 0, BOUND, BOUND, BOUND]),
  'odd tails': expertRows([0, 1, 66, 69, 132]),
  'rows at the bound': expertRows([0, 34, 65, 100, BOUND]),
  'no tokens': routed(0, () => 0),
  'one token': routed(1, (_, place) => 3 * place),
  'all tokens on one pair of experts': routed(100, (_, place) => 1 + place),
  'tokens at the bound': routed(BOUND, (token, place) => (token + place) % EXPERTS),
};

let devices: { readonly native: NativeDevice; readonly shim: ShimDevice } | undefined;
before(async () => {
  if (noCompiler === false) devices = { native: await NativeDevice.open(2), shim: await ShimDevice.open() };
});
after(() => devices?.native.close());

for (const [name, c] of Object.entries(CASES))
  test(name, { skip: noCompiler }, async () => {
    if (!devices) throw new Error('no devices');
    await compareDevices([{ name, c }], 1, devices.native, devices.shim);
    await compareWithReference([{ name, c }], 1, devices.shim, 1e-4);
  });
