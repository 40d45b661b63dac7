// A reduction along a row is computed in the kernel that uses it, if all its uses lead to one stored value of that
// kernel; otherwise the reduction is stored.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Stream } from '../../src/base/random.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { add } from '../../src/graph/ops/elementwise/add.ts';
import { expand } from '../../src/graph/ops/shape/expand.ts';
import { ops } from '../../src/graph/ops/index.ts';
import { matmul } from '../../src/graph/ops/matmul/matmul.ts';
import { max } from '../../src/graph/ops/reduce/max.ts';
import { mul } from '../../src/graph/ops/elementwise/mul.ts';
import { reshape } from '../../src/graph/ops/shape/reshape.ts';
import { slice } from '../../src/graph/ops/shape/slice.ts';
import { sub } from '../../src/graph/ops/elementwise/sub.ts';
import { sum } from '../../src/graph/ops/reduce/sum.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { compileGraph, loadProgram } from '../../src/pipeline.ts';
import { ProgramExecutor } from '../../src/run/program.ts';
import { DEVICES } from '../conformance/devices.ts';

const R = 37;

/** A computation on x [R, W], the number of its kernels, and the expected result for a row. */
interface Case {
  readonly name: string;
  readonly kernels: number;
  build(x: Tensor): Tensor[];
  row(x: number[]): number[];
}

const total = (x: readonly number[]): number => x.reduce((a, b) => a + b, 0);
const CASES: readonly Case[] = [
  {
    name: 'a sum, scaled and broadcast once',
    kernels: 1,
    build: (x) => {
      const s = sum(mul(x, x), [1]);
      return [sub(x, mul(x, expand(add(s, s), x, [1])))];
    },
    row: (x) => x.map((v) => v - v * 2 * total(x.map((u) => u * u))),
  },
  {
    name: 'a maximum',
    kernels: 1,
    build: (x) => [sub(x, expand(max(x, [1]), x, [1]))],
    row: (x) => x.map((v) => v - Math.max(...x)),
  },
  {
    name: 'a sum of rows that contain another sum',
    kernels: 2,
    build: (x) => {
      const y = sub(x, expand(sum(x, [1]), x, [1]));
      return [mul(x, expand(sum(y, [1]), x, [1]))];
    },
    row: (x) => x.map((v) => v * total(x.map((u) => u - total(x)))),
  },
  {
    name: 'a sum that is also an output',
    kernels: 2,
    build: (x) => {
      const s = sum(x, [1]);
      return [mul(x, expand(s, x, [1])), s];
    },
    row: (x) => x.map((v) => v * total(x)),
  },
  {
    name: 'a sum broadcast into two outputs',
    kernels: 3,
    build: (x) => {
      const s = expand(sum(x, [1]), x, [1]);
      return [mul(x, s), sub(x, s)];
    },
    row: (x) => x.map((v) => v * total(x)),
  },
  {
    name: 'a reader whose rows have another width',
    kernels: 2,
    build: (x) => {
      const w = x.shape[1] as number;
      return [reshape(mul(reshape(x, [1, R * w]), reshape(expand(sum(x, [1]), x, [1]), [1, R * w])), [R, w])];
    },
    row: (x) => x.map((v) => v * total(x)),
  },
];

for (const { name, kernels, build, row } of CASES)
  for (const W of [3, 8, 33]) {
    test(`${name}, rows of ${W}`, async (t) => {
      const b = new GraphBuilder(ops),
        x = b.input('input', 'x', { dtype: 'float32', shape: [R, W] });
      build(x).forEach((y, i) => {
        b.output(`y${i}`, y);
      });
      const graph = b.build(),
        compiled = compileGraph(graph),
        data = Float32Array.from({ length: R * W }, (_, i) => Math.fround(new Stream(2, 'rows').normal(0, i)));
      assert.equal(compiled.program.steps.length, kernels, compiled.program.steps.map((s) => s.ops.join('+')).join());
      for (const entry of DEVICES) {
        const reason = await entry.skip();
        if (reason !== null) {
          t.diagnostic(`${entry.name}: ${reason}`);
          continue;
        }
        const executor = new ProgramExecutor(await entry.open()),
          loaded = await loadProgram(executor, compileGraph(graph, executor.device.target)),
          got = (await executor.run(loaded, { x: data }))['y0'].data;
        for (let r = 0; r < R; r++)
          row([...data.subarray(r * W, r * W + W)]).forEach((want, c) => {
            assert.ok(
              Math.abs(got[r * W + c] - want) <= 1e-4 * (1 + Math.abs(want)),
              `${entry.name}, row ${r}, column ${c}: ${got[r * W + c]}, not ${want}`,
            );
          });
        executor.release(loaded);
        await executor.close();
      }
    });
  }

test('a row sum joins no kernel that does not go by rows: sums over leading axes, products', async (t) => {
  const W = 5,
    b = new GraphBuilder(ops),
    x = b.input('input', 'x', { dtype: 'float32', shape: [R, W] }),
    w = b.input('input', 'w', { dtype: 'float32', shape: [W, W] });
  const top = slice(x, 0, 0, 1),
    scaled = mul(top, expand(sum(top, [1]), top, [1]));
  b.output('beside sums', sub(scaled, reshape(sum(x, [0]), [1, W])));
  b.output('beside a product', mul(matmul(x, w), expand(sum(x, [1]), x, [1])));
  const graph = b.build(),
    draw = (name: string, n: number): Float32Array =>
      Float32Array.from({ length: n }, (_, i) => new Stream(2, name).normal(0, i));
  const inputs = { x: draw('rows', R * W), w: draw('w', W * W) },
    rows = Array.from({ length: R }, (_, r) => [...inputs.x.subarray(r * W, r * W + W)]),
    columns = [0, 1, 2, 3, 4];
  const want: Record<string, number[]> = {
    'beside sums': columns.map((c) => rows[0][c] * total(rows[0]) - total(rows.map((row) => row[c]))),
    'beside a product': rows.flatMap((row) =>
      columns.map((c) => total(row) * total(row.map((v, k) => v * inputs.w[k * W + c]))),
    ),
  };
  for (const entry of DEVICES) {
    const reason = await entry.skip();
    if (reason !== null) {
      t.diagnostic(`${entry.name}: ${reason}`);
      continue;
    }
    const executor = new ProgramExecutor(await entry.open()),
      loaded = await loadProgram(executor, compileGraph(graph, executor.device.target)),
      got = await executor.run(loaded, inputs);
    for (const [name, values] of Object.entries(want))
      values.forEach((v, i) => {
        assert.ok(
          Math.abs(got[name].data[i] - v) <= 1e-4 * (1 + Math.abs(v)),
          `${entry.name}, ${name}, element ${i}: ${got[name].data[i]}, not ${v}`,
        );
      });
    executor.release(loaded);
    await executor.close();
  }
});
