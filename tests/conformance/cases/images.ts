// Cases of convolution and pooling: odd sizes, strides larger than the window, padding, dilation, groups, no image, a
// number of images that is counted at run time.
import fc from 'fast-check';
import { add } from '../../../src/graph/ops/elementwise/add.ts';
import { conv2d } from '../../../src/graph/ops/image/conv2d.ts';
import { mul } from '../../../src/graph/ops/elementwise/mul.ts';
import { relu } from '../../../src/graph/ops/elementwise/relu.ts';
import { tanh } from '../../../src/graph/ops/elementwise/tanh.ts';
import { emit, emit1, type Tensor } from '../../../src/graph/tensor.ts';
import type { DimSpec, InputSpec } from '../harness.ts';
import type { Family } from '../shapes.ts';

const edge = fc.constantFrom(1, 2, 3, 4, 5, 7, 8),
  channels = fc.constantFrom(1, 1, 2, 3, 4, 7, 16, 17);
const pair = (n: fc.Arbitrary<number>): fc.Arbitrary<readonly [number, number]> => fc.tuple(n, n);
const small = (...n: number[]): fc.Arbitrary<number> => fc.constantFrom(...n);

/**
 * The number of images: fixed (0 too), or a varying dimension with a count of 0, less than the bound, or the bound.
 */
const images: fc.Arbitrary<{ dim: DimSpec; counts: readonly InputSpec[] }> = fc.oneof(
  { weight: 3, arbitrary: small(1, 2, 3, 0).map((n) => ({ dim: n, counts: [] })) },
  {
    weight: 1,
    arbitrary: small(0, 1, 3).map((n) => ({
      dim: { bound: 3, count: 'n' },
      counts: [{ name: 'n', dtype: 'int32' as const, shape: [], data: [n] }],
    })),
  },
  {
    weight: 1,
    arbitrary: small(0, 1, 3).map((n) => ({
      dim: { bound: 3, segments: 2, offsets: 'n' },
      counts: [{ name: 'n', dtype: 'int32' as const, shape: [3], data: [0, n >> 1, n] }],
    })),
  },
);

interface Windows {
  readonly size: readonly [number, number];
  readonly taps: readonly [number, number];
  readonly stride: readonly [number, number];
  readonly padding: readonly number[];
  readonly dilation: readonly [number, number];
}

const outputs = (w: Windows): readonly [number, number] =>
  [0, 1].map(
    (d) =>
      Math.floor(
        (w.size[d] + w.padding[2 * d] + w.padding[2 * d + 1] - (w.taps[d] - 1) * w.dilation[d] - 1) / w.stride[d],
      ) + 1,
  ) as unknown as readonly [number, number];

const windows = (pads: fc.Arbitrary<number>): fc.Arbitrary<Windows> =>
  fc
    .record({
      size: pair(edge),
      taps: pair(small(1, 2, 3, 3, 5)),
      stride: pair(small(1, 1, 2, 3)),
      dilation: pair(small(1, 1, 1, 2)),
      padding: fc.tuple(pads, pads, pads, pads),
    })
    .filter((w) => outputs(w).every((n) => n >= 1));

const convolutions = fc
  .record({ n: images, w: windows(small(0, 0, 1, 2)), groups: small(1, 1, 1, 2, 3), I: channels, O: channels })
  .filter(({ w, groups, I, O }) => w.size[0] * w.size[1] * I * O * groups * w.taps[0] * w.taps[1] < 30_000)
  .map(({ n, w, groups, I, O }) => ({
    n,
    w,
    attrs: { stride: w.stride, padding: w.padding, dilation: w.dilation, groups },
    x: [n.dim, ...w.size, I * groups],
    weight: [...w.taps, I, O * groups],
    y: [n.dim, ...outputs(w), O * groups],
  }));

const depthwise = fc
  .record({ n: images, w: windows(small(0, 0, 1, 2)), C: fc.constantFrom(1, 2, 3, 7, 16, 17, 65) })
  .map(({ n, w, C }) => ({
    n,
    w,
    attrs: { stride: w.stride, padding: w.padding, dilation: w.dilation },
    x: [n.dim, ...w.size, C],
    weight: [...w.taps, 1, C],
    y: [n.dim, ...outputs(w), C],
  }));

const pools = fc
  .record({
    n: images,
    C: channels,
    padded: fc.boolean(),
    w: fc.record({
      size: pair(edge),
      taps: pair(small(1, 2, 3, 3)),
      stride: pair(small(1, 2, 2, 3, 4)),
      dilation: fc.constant([1, 1] as const),
      padding: fc.tuple(...[0, 1, 2, 3].map(() => small(0, 0, 1, 2))),
    }),
  })
  .filter(({ w }) => outputs(w).every((n) => n >= 1) && w.padding.every((p, i) => p < w.taps[i >> 1]))
  .map(({ n, C, padded, w }) => ({
    n,
    padded,
    w,
    attrs: { window: w.taps, stride: w.stride, padding: w.padding, dilation: w.dilation },
    x: [n.dim, ...w.size, C],
    y: [n.dim, ...outputs(w), C],
  }));

/**
 * Distinct odd multiples of 1/64. A step of the finite differences changes neither which value is the largest nor a
 * sign.
 */
const distinct = (_: unknown, i: number): number => (2 * ((i * 7919) % 10_007) - 10_007) / 64;

export const families: readonly Family[] = [
  {
    op: 'conv2d',
    runs: 40,
    cases: convolutions.map(({ n, attrs, x, weight }) => ({
      inputs: [...n.counts, { name: 'x', shape: x }, { name: 'w', shape: weight }],
      build: (t) => emit1('conv2d', t.slice(n.counts.length), attrs),
    })),
  },
  {
    op: 'conv2d',
    name: 'depthwise',
    runs: 6,
    cases: fc.record({ C: small(1, 5, 16, 33), w: windows(small(0, 1)) }).map(({ C, w }) => ({
      inputs: [
        { name: 'x', shape: [2, ...w.size, C] },
        { name: 'w', shape: [...w.taps, 1, C] },
      ],
      build: ([x, weight]) =>
        emit1('conv2d', [x, weight], { stride: w.stride, padding: w.padding, dilation: w.dilation, groups: C }),
    })),
  },
  {
    op: 'conv2d',
    name: 'one tap',
    runs: 6,
    cases: fc.record({ n: images, size: pair(edge), I: channels, O: channels }).map(({ n, size, I, O }) => ({
      inputs: [...n.counts, { name: 'x', shape: [n.dim, ...size, I] }, { name: 'w', shape: [1, 1, I, O] }],
      build: (t) => conv2d(t[n.counts.length], t[n.counts.length + 1]),
    })),
  },
  {
    op: 'conv2d',
    name: 'larger than a block',
    runs: 3,
    differences: 1,
    cases: fc.constantFrom([1, 12, 40, 34], [2, 17, 16, 40], [3, 15, 3, 17]).map(([n, size, I, O]) => ({
      inputs: [
        { name: 'x', shape: [n, size, size, I] },
        { name: 'w', shape: [3, 3, I, O] },
      ],
      build: ([x, w]) => conv2d(x, w, { padding: 'same' }),
    })),
  },
  {
    op: 'conv2d',
    name: 'layers',
    runs: 8,
    cases: fc.record({ n: images, O: channels, stride: small(1, 2) }).map(({ n, O, stride }) => ({
      inputs: [
        ...n.counts,
        { name: 'x', shape: [n.dim, 7, 6, 3] },
        { name: 'w', shape: [3, 3, 3, O] },
        { name: 'b', shape: [O] },
        { name: 'v', shape: [2, 2, O, 5] },
      ],
      build: (all) => {
        const [x, w, b, v] = all.slice(n.counts.length) as [Tensor, Tensor, Tensor, Tensor];
        return conv2d(tanh(add(conv2d(x, w, { padding: 1, stride }), b)), v, { padding: [0, 1, 1, 0] });
      },
    })),
  },
  {
    op: 'conv2d',
    name: 'and relu',
    runs: 4,
    cases: channels.map((O) => ({
      inputs: [
        { name: 'x', shape: [2, 5, 5, 4], grad: false },
        { name: 'w', shape: [3, 3, 4, O], grad: false },
      ],
      build: ([x, w]) => relu(conv2d(relu(x), w, { padding: 'same' })),
    })),
  },
  {
    op: 'conv2dGradInput',
    runs: 40,
    cases: convolutions.map(({ n, w, attrs, weight, y }) => ({
      inputs: [...n.counts, { name: 'dy', shape: y }, { name: 'w', shape: weight }],
      build: (t) => emit1('conv2dGradInput', t.slice(n.counts.length), { ...attrs, size: w.size }),
    })),
  },
  {
    op: 'conv2dGradWeight',
    runs: 40,
    cases: convolutions.map(({ n, w, attrs, x, y }) => ({
      inputs: [...n.counts, { name: 'x', shape: x }, { name: 'dy', shape: y }],
      build: (t) => emit1('conv2dGradWeight', t.slice(n.counts.length), { ...attrs, taps: w.taps }),
    })),
  },
  {
    op: 'depthwise2d',
    runs: 24,
    cases: depthwise.map(({ n, attrs, x, weight }) => ({
      inputs: [...n.counts, { name: 'x', shape: x }, { name: 'w', shape: weight }],
      build: (t) => emit1('depthwise2d', t.slice(n.counts.length), attrs),
    })),
  },
  {
    op: 'depthwise2d',
    name: 'between layers',
    runs: 4,
    cases: channels.map((C) => ({
      inputs: [
        { name: 'x', shape: [2, 5, 6, C] },
        { name: 'w', shape: [3, 3, 1, C] },
        { name: 'b', shape: [C] },
      ],
      build: ([x, w, b]) => tanh(add(conv2d(tanh(x), w, { groups: C, padding: 'same' }), b)),
    })),
  },
  {
    op: 'depthwise2dGradInput',
    runs: 24,
    cases: depthwise.map(({ n, w, attrs, weight, y }) => ({
      inputs: [...n.counts, { name: 'dy', shape: y }, { name: 'w', shape: weight }],
      build: (t) => emit1('depthwise2dGradInput', t.slice(n.counts.length), { ...attrs, size: w.size }),
    })),
  },
  {
    op: 'depthwise2dGradWeight',
    runs: 24,
    cases: depthwise.map(({ n, w, attrs, x, y }) => ({
      inputs: [...n.counts, { name: 'x', shape: x }, { name: 'dy', shape: y }],
      build: (t) => emit1('depthwise2dGradWeight', t.slice(n.counts.length), { ...attrs, taps: w.taps }),
    })),
  },
  {
    op: 'maxPool2d',
    runs: 24,
    cases: pools.map(({ n, attrs, x }) => ({
      inputs: [...n.counts, { name: 'x', shape: x, value: distinct }],
      build: (t) => emit('maxPool2d', t.slice(n.counts.length), attrs),
    })),
  },
  {
    op: 'maxPool2d',
    name: 'ties and NaN',
    runs: 12,
    cases: pools.map(({ n, attrs, x }) => ({
      inputs: [
        ...n.counts,
        {
          name: 'x',
          shape: x,
          grad: false,
          value: ({ uniform }) => [0, 1, 2, -Infinity, NaN][Math.floor(5 * uniform)],
        },
      ],
      build: (t) => emit('maxPool2d', t.slice(n.counts.length), attrs),
    })),
  },
  {
    op: 'maxPool2d',
    name: 'of what is computed',
    runs: 8,
    cases: pools.map(({ n, attrs, x }) => ({
      inputs: [...n.counts, { name: 'x', shape: x, value: distinct }],
      build: (t) => {
        const [y] = emit('maxPool2d', [relu(t[n.counts.length])], attrs);
        return [y, tanh(mul(y, 0.01))];
      },
    })),
  },
  {
    op: 'maxPool2dGrad',
    runs: 24,
    cases: pools.map(({ n, w, attrs, x, y }) => ({
      inputs: [...n.counts, { name: 'x', shape: x, value: distinct, grad: false }, { name: 'dy', shape: y }],
      build: (all) => {
        const [v, dy] = all.slice(n.counts.length);
        return emit1('maxPool2dGrad', [dy, emit('maxPool2d', [v], attrs)[1]], { ...attrs, size: w.size });
      },
    })),
  },
  {
    op: 'maxPool2dTake',
    runs: 16,
    cases: pools.map(({ n, attrs, x }) => ({
      inputs: [...n.counts, { name: 'x', shape: x, value: distinct }, { name: 'u', shape: x }],
      build: (all) => {
        const [v, u] = all.slice(n.counts.length);
        return emit1('maxPool2dTake', [u, emit('maxPool2d', [v], attrs)[1]], attrs);
      },
    })),
  },
  {
    op: 'avgPool2d',
    runs: 24,
    cases: pools.map(({ n, attrs, padded, x }) => ({
      inputs: [...n.counts, { name: 'x', shape: x }],
      build: (t) => emit1('avgPool2d', t.slice(n.counts.length), { ...attrs, padded }),
    })),
  },
  {
    op: 'avgPool2dGrad',
    runs: 24,
    cases: pools.map(({ n, w, attrs, padded, y }) => ({
      inputs: [...n.counts, { name: 'dy', shape: y }],
      build: (t) => emit1('avgPool2dGrad', t.slice(n.counts.length), { ...attrs, padded, size: w.size }),
    })),
  },
];
