// conv1d and convTranspose2d against plain loops for random cases, and what they refuse. Gradients are compared with
// finite differences in tests/conformance/cases/convolutions.ts.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { UserError } from '../../src/base/errors.ts';
import { Stream } from '../../src/base/random.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { ops } from '../../src/graph/ops/index.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { Conv1d, conv1d, ConvTranspose2d, convTranspose2d } from '../../src/layers.ts';
import { ReferenceExecutor } from '../../src/run/reference.ts';
import { sequences, transposed } from '../conformance/cases/convolutions.ts';

const draw = (name: string, shape: readonly number[]): Float64Array => {
  const stream = new Stream(1, name);
  return Float64Array.from({ length: shape.reduce((n, d) => n * d, 1) }, (_, i) => stream.normal(0, i));
};

/** The value of build(x, w) in float64 is that of `wanted`, an array of the shape of the result. */
async function check(
  { x, w }: { readonly x: readonly number[]; readonly w: readonly number[] },
  build: (x: Tensor, w: Tensor) => Tensor,
  wanted: (x: Float64Array, w: Float64Array, shape: readonly number[]) => Float64Array,
): Promise<void> {
  const b = new GraphBuilder(ops),
    y = build(
      b.input('input', 'x', { dtype: 'float64', shape: x }),
      b.input('input', 'w', { dtype: 'float64', shape: w }),
    );
  b.output('y', y);
  const data = { x: draw('x', x), w: draw('w', w) },
    executor = new ReferenceExecutor(),
    { y: got } = await executor.run(executor.load(b.build()), data),
    right = wanted(data.x, data.w, got.shape);
  assert.equal(got.data.length, right.length);
  assert.ok(
    right.every((v, i) => Math.abs(v - got.data[i]) < 1e-10),
    `${[...got.data].join(' ')} is not ${[...right].join(' ')}`,
  );
}

test('conv1d against plain loops', async () => {
  await fc.assert(
    fc.asyncProperty(sequences, async (c) => {
      const { stride = 1, dilation = 1, padding = 0, groups = 1 } = c.options,
        [n, time, channels] = c.x,
        [taps, inputs, outputs] = c.w;
      const same = Math.max(0, (Math.ceil(time / stride) - 1) * stride + (taps - 1) * dilation + 1 - time),
        [before, after] =
          padding === 'same'
            ? [Math.floor(same / 2), Math.ceil(same / 2)]
            : typeof padding === 'number'
              ? [padding, padding]
              : padding,
        places = Math.floor((time + before + after - dilation * (taps - 1) - 1) / stride) + 1;
      await check(
        c,
        (x, w) => conv1d(x, w, c.options),
        (x, w, shape) => {
          assert.deepEqual(shape, [n, places, outputs]);
          const y = new Float64Array(n * places * outputs);
          for (let i = 0; i < n; i++)
            for (let t = 0; t < places; t++)
              for (let o = 0; o < outputs; o++)
                for (let s = 0; s < taps; s++) {
                  const at = t * stride - before + s * dilation,
                    first = Math.floor(o / (outputs / groups)) * inputs;
                  if (at < 0 || at >= time) continue;
                  for (let k = 0; k < inputs; k++)
                    y[(i * places + t) * outputs + o] +=
                      x[(i * time + at) * channels + first + k] * w[(s * inputs + k) * outputs + o];
                }
          return y;
        },
      );
    }),
    { numRuns: 200 },
  );
});

test('convTranspose2d spreads each place of the images over its window, in plain loops', async () => {
  await fc.assert(
    fc.asyncProperty(transposed, async (c) => {
      const { stride, dilation, padding, outputPadding, groups } = c.options,
        [n, height, width, inputs] = c.x,
        [rows, columns, each] = c.w,
        outputs = each * groups;
      const size = [height, width].map(
        (places, d) =>
          (places - 1) * stride[d] -
          padding[2 * d] -
          padding[2 * d + 1] +
          dilation[d] * (c.w[d] - 1) +
          outputPadding[d] +
          1,
      );
      await check(
        c,
        (x, w) => convTranspose2d(x, w, c.options),
        (x, w, shape) => {
          assert.deepEqual(shape, [n, ...size, outputs]);
          const y = new Float64Array(n * size[0] * size[1] * outputs);
          x.forEach((value, at) => {
            const k = at % inputs,
              q = Math.floor(at / inputs) % width,
              r = Math.floor(at / inputs / width) % height,
              i = Math.floor(at / inputs / width / height);
            for (let s = 0; s < rows; s++)
              for (let t = 0; t < columns; t++) {
                const down = r * stride[0] - padding[0] + s * dilation[0],
                  right = q * stride[1] - padding[2] + t * dilation[1];
                if (down < 0 || down >= size[0] || right < 0 || right >= size[1]) continue;
                const first = Math.floor(k / (inputs / groups)) * each;
                for (let o = 0; o < each; o++)
                  y[((i * size[0] + down) * size[1] + right) * outputs + first + o] +=
                    value * w[((s * columns + t) * each + o) * inputs + k];
              }
          });
          return y;
        },
      );
    }),
    { numRuns: 200 },
  );
});

test('shapes and options that do not fit are refused by name', () => {
  const b = new GraphBuilder(ops),
    input = (name: string, shape: number[]): Tensor => b.input('input', name, { dtype: 'float32', shape });
  const sequence = input('sequence', [2, 5, 4]),
    kernel = input('kernel', [3, 4, 6]),
    image = input('image', [2, 5, 5, 4]),
    weight = input('weight', [3, 3, 6, 4]);
  const cases: readonly (readonly [() => unknown, RegExp])[] = [
    [() => conv1d(image, kernel), /conv1d: sequences are \[count, time, channels\][^]*float32\[2, 5, 5, 4\]/],
    [() => conv1d(sequence, weight), /conv1d: sequences are/],
    [() => conv1d(sequence, input('narrow', [3, 3, 6])), /do not fit in 1 groups/],
    [() => conv1d(sequence, input('long', [7, 4, 6])), /a window that reaches over 7 does not fit/],
    [() => conv1d(sequence, kernel, { stride: 0 }), /stride/],
    [() => conv1d(sequence, kernel, { padding: [1] as never }), /padding/],
    [() => conv1d(sequence, kernel, { groups: 3 }), /groups/],
    [() => conv1d(3 as never, kernel), /tensors/],
    [() => new Conv1d(4, 6, 3, { groups: 4 }), /Conv1d: 4 groups do not divide 4 inputs and 6 outputs/],
    [() => new Conv1d(4, 6, 0), /Conv1d: taps must be a whole number of at least 1/],
    [() => convTranspose2d(sequence, weight), /convTranspose2d: images float32\[2, 5, 4\] and weights/],
    [() => convTranspose2d(image, kernel), /convTranspose2d: images/],
    [() => convTranspose2d(image, input('turned', [3, 3, 4, 6])), /need weights \[rows, columns, outputs \/ groups/],
    [() => convTranspose2d(image, weight, { padding: 'same' as never }), /convTranspose2d: padding 'same' is not/],
    [() => convTranspose2d(image, weight, { stride: 2, outputPadding: 2 }), /outputPadding \[2, 2\] must be below/],
    [() => convTranspose2d(image, weight, { outputPadding: [0, 1] }), /outputPadding \[0, 1\] must be below/],
    [() => convTranspose2d(image, weight, { padding: 4 }), /would have -1 times -1 places/],
    [() => convTranspose2d(image, weight, { groups: 3 }), /do not fit in 3 groups/],
    [() => convTranspose2d(image, weight, { groups: 0 }), /groups/],
    [() => convTranspose2d(image, weight, { groups: 0.5 }), /groups/],
    [() => new ConvTranspose2d(4, 6, 3, { groups: 4 }), /ConvTranspose2d: 4 groups do not divide 4 inputs/],
  ];
  for (const [call, message] of cases) assert.throws(call, (e) => e instanceof UserError && message.test(e.message));
});
