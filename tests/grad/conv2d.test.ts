// Gradients of gradients. Each of the three ops of convolution (forward, gradient to the input, gradient to the
// weight) is a gradient of the others, so a function of a gradient can be differentiated again. Checked against finite
// differences of the first gradient in float64.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Stream } from '../../src/base/random.ts';
import { elements } from '../../src/base/shape.ts';
import { gradients } from '../../src/grad/differentiate.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { conv2d, type Conv2dOptions } from '../../src/graph/ops/image/conv2d.ts';
import { ops } from '../../src/graph/ops/index.ts';
import { mul } from '../../src/graph/ops/elementwise/mul.ts';
import { sum } from '../../src/graph/ops/reduce/sum.ts';
import { tanh } from '../../src/graph/ops/elementwise/tanh.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { ReferenceExecutor } from '../../src/run/reference.ts';

const CASES: readonly { x: number[]; w: number[]; options: Conv2dOptions }[] = [
  { x: [2, 5, 4, 3], w: [3, 2, 3, 4], options: { padding: [1, 0, 2, 1] } },
  { x: [1, 7, 6, 2], w: [3, 3, 2, 3], options: { stride: [2, 3], padding: 'same' } },
  { x: [2, 6, 6, 4], w: [2, 2, 2, 6], options: { groups: 2, dilation: [2, 1], stride: [1, 2] } },
  { x: [2, 4, 4, 3], w: [3, 3, 1, 3], options: { groups: 3, padding: 1 } },
];

for (const { x: xShape, w: wShape, options } of CASES) {
  test(`gradient of a function of conv2d's gradients: [${xShape}] [${wShape}] ${JSON.stringify(options)}`, async () => {
    const b = new GraphBuilder(ops),
      input = (name: string, shape: number[]): Tensor => b.input('input', name, { dtype: 'float32', shape });
    const x = input('x', xShape),
      w = input('w', wShape),
      p = input('p', xShape),
      q = input('q', wShape);
    const first = gradients(b, sum(tanh(conv2d(x, w, options))), [x, w]);
    assert.ok(first[0] && first[1]);
    // a penalty on the gradients, as in a WGAN
    const penalty = sum(mul(mul(first[0], first[0]), p)),
      other = sum(mul(tanh(first[1]), q));
    const second = [...gradients(b, penalty, [x, w]), ...gradients(b, other, [x, w])];
    [penalty, other, ...second].forEach((t, i) => {
      assert.ok(t);
      b.output(`${i}`, t);
    });
    const name = options.groups === xShape[3] ? 'depthwise2d' : 'conv2d';
    assert.ok(
      [name, `${name}GradInput`, `${name}GradWeight`].every((op) => b.nodes.filter((n) => n.op === op).length > 1),
    );

    const executor = new ReferenceExecutor(),
      loaded = executor.load(b.build());
    const data = Object.fromEntries(
      [
        ['x', x],
        ['w', w],
        ['p', p],
        ['q', q],
      ].map(([name, t]) => {
        const stream = new Stream(3, name as string);
        return [
          name as string,
          Float64Array.from({ length: elements((t as Tensor).shape) }, (_, i) => stream.normal(0, i)),
        ];
      }),
    );
    const out = async (): Promise<Record<string, ArrayLike<number>>> =>
      Object.fromEntries(Object.entries(await executor.run(loaded, data)).map(([k, v]) => [k, v.data]));
    const values = await out(),
      h = 1e-4;
    for (const [which, name] of ['x', 'w'].entries()) {
      for (const i of new Stream(1, name).permutation(0, data[name].length).slice(0, 12)) {
        const old = data[name][i],
          ends: Record<string, ArrayLike<number>>[] = [];
        for (const step of [-2, -1, 1, 2]) {
          data[name][i] = old + step * h;
          ends.push(await out());
        }
        data[name][i] = old;
        for (const [f, at] of [
          [0, 2 + which],
          [1, 4 + which],
        ]) {
          const [a, c, d, e] = ends.map((v) => v[f][0]),
            slope = (8 * (d - c) - (e - a)) / (12 * h),
            got = values[at][i];
          assert.ok(
            Math.abs(got - slope) < 1e-6 * Math.max(1, Math.abs(slope)),
            `d ${['penalty', 'other'][f]} / d ${name}[${i}]: ${got}, differences give ${slope}`,
          );
        }
      }
    }
  });
}
