// Matrix products on the GPU: operands in rows and in columns, ragged groups (empty, one row, all rows in one, odd
// sizes, filled to the bound), with blocks of 64, 128 and 256 threads, whose tiles differ. Results are compared with
// sums in float64, and all tiles must give the same bits.
import type { Case, DimSpec } from '../../../tests/conformance/harness.ts';
import { resultsOf } from '../../../tests/conformance/harness.ts';
import type { TypedArray } from '../../../src/base/dtype.ts';
import { groupedMatmul } from '../../../src/graph/ops/matmul/groupedMatmul.ts';
import { matmul } from '../../../src/graph/ops/matmul/matmul.ts';
import { transpose } from '../../../src/graph/ops/shape/transpose.ts';
import { openGpu } from '../device.ts';
import { check, SMALL } from '../report.ts';

interface Product {
  readonly name: string;
  readonly c: Case;
}

const SIZES: readonly (readonly [number, number, number])[] = SMALL
  ? [
      [5, 7, 9],
      [65, 33, 17],
    ]
  : [
      [1, 1, 1],
      [5, 7, 9],
      [65, 33, 17],
      [128, 256, 512],
      [1000, 1001, 999],
      [2048, 1024, 777],
    ];

const dense = SIZES.flatMap(([m, n, k]) =>
  [false, true].flatMap((a) =>
    [false, true].map((b): Product => {
      const shapes = [a ? [k, m] : [m, k], b ? [n, k] : [k, n]];
      return {
        name: `[${m}, ${k}] x [${k}, ${n}]${a ? ', A in columns' : ''}${b ? ', B in columns' : ''}`,
        c: {
          inputs: [
            { name: 'a', shape: shapes[0] },
            { name: 'b', shape: shapes[1] },
          ],
          build: ([x, y]) => matmul(a ? transpose(x, [1, 0]) : x, b ? transpose(y, [1, 0]) : y),
        },
      };
    }),
  ),
);

const [BOUND, WIDE, DEEP] = SMALL ? [40, 33, 17] : [600, 385, 257];
const LOADS: Readonly<Record<string, readonly number[]>> = {
  'no rows': [0, 0, 0, 0],
  'one row': [0, 1, 0, 0],
  'all rows in one group': [0, 0, BOUND, 0],
  'odd groups': [3, 0, 17, 5],
  'filled to the bound': [BOUND / 4, BOUND / 4, BOUND / 4, BOUND / 4],
};
const ragged = Object.entries(LOADS).map(([load, rows]): Product => {
  const ends = rows.map((_, g) => rows.slice(0, g + 1).reduce((x, y) => x + y, 0)),
    dim: DimSpec = { bound: BOUND, segments: rows.length, offsets: 'offsets' };
  return {
    name: `grouped, ${load}`,
    c: {
      inputs: [
        { name: 'offsets', dtype: 'int32', shape: [rows.length + 1], data: [0, ...ends] },
        { name: 'x', shape: [dim, DEEP] },
        { name: 'w', shape: [rows.length, DEEP, WIDE] },
      ],
      build: ([, x, w]) => groupedMatmul(x, w),
    },
  };
});

/** The largest difference beside the largest number. */
function errorOf(got: TypedArray, want: Float64Array): number {
  let worst = 0,
    scale = 1e-3;
  want.forEach((x, i) => {
    worst = Math.max(worst, Number.isNaN(got[i]) ? Infinity : Math.abs(got[i] - x));
    scale = Math.max(scale, Math.abs(x));
  });
  return worst / scale;
}

let first: ReadonlyMap<string, readonly TypedArray[]> | null = null;
for (const threads of [256, 128, 64]) {
  const device = await openGpu(threads),
    all = new Map<string, readonly TypedArray[]>();
  for (const { name, c } of [...dense, ...ragged])
    await check(`${name}, ${threads} threads`, async () => {
      const results = await resultsOf(c, 1, device);
      all.set(
        name,
        results.map(({ got }) => got.slice()),
      );
      for (const { name: output, got, expected } of results) {
        const error = errorOf(got, expected);
        if (!(error < 1e-4)) throw new Error(`${output}: an error of ${error} against float64`);
      }
      const same = first?.get(name);
      results.forEach(({ name: output, got }, i) => {
        const at = same ? got.findIndex((x, j) => !Object.is(x, same[i][j])) : -1;
        if (at >= 0) throw new Error(`${output}[${at}] is ${got[at]}, with 256 threads ${same?.[i][at]}`);
      });
    });
  first ??= all;
  await device.close();
}
