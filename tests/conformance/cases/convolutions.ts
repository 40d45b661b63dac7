// Random convolutions of sequences and transposed convolutions, and their conformance cases.
import fc from 'fast-check';
import { conv1d, convTranspose2d, type Conv1dOptions, type ConvTranspose2dOptions } from '../../../src/layers.ts';
import type { Family } from '../shapes.ts';

const small = (least: number, most: number): fc.Arbitrary<number> => fc.integer({ min: least, max: most });

/** x [N, time, inputs], w [taps, inputs / groups, outputs]. */
export interface Sequences {
  readonly x: readonly number[];
  readonly w: readonly number[];
  readonly options: Conv1dOptions;
}

export const sequences: fc.Arbitrary<Sequences> = fc
  .record({
    n: small(1, 3),
    time: small(1, 12),
    taps: small(1, 4),
    groups: small(1, 3),
    inputs: small(1, 3),
    outputs: small(1, 3),
    stride: small(1, 3),
    dilation: small(1, 3),
    padding: fc.oneof(small(0, 3), fc.tuple(small(0, 3), small(0, 3)), fc.constant('same' as const)),
  })
  .filter(({ time, taps, dilation, padding }) => {
    const more = padding === 'same' ? Infinity : typeof padding === 'number' ? 2 * padding : padding[0] + padding[1];
    return time + more > dilation * (taps - 1);
  })
  .map(({ n, time, taps, groups, inputs, outputs, stride, dilation, padding }) => ({
    x: [n, time, inputs * groups],
    w: [taps, inputs, outputs * groups],
    options: { stride, dilation, padding, groups },
  }));

/** x [N, H, W, inputs], w [rows, columns, outputs / groups, inputs]. */
export interface Transposed {
  readonly x: readonly number[];
  readonly w: readonly number[];
  readonly options: ConvTranspose2dOptions & {
    readonly stride: readonly [number, number];
    readonly padding: readonly [number, number, number, number];
    readonly outputPadding: readonly [number, number];
    readonly dilation: readonly [number, number];
    readonly groups: number;
  };
}

const axis = fc
  .record({
    places: small(1, 5),
    taps: small(1, 4),
    stride: small(1, 3),
    dilation: small(1, 2),
    before: small(0, 2),
    after: small(0, 2),
    extra: small(0, 2),
  })
  .filter(
    ({ places, taps, stride, dilation, before, after, extra }) =>
      extra < stride && (places - 1) * stride + dilation * (taps - 1) + extra + 1 > before + after,
  );

export const transposed: fc.Arbitrary<Transposed> = fc
  .tuple(axis, axis, small(1, 2), small(1, 3), small(1, 2), small(1, 2))
  .map(([a, b, n, groups, inputs, outputs]) => ({
    x: [n, a.places, b.places, inputs * groups],
    w: [a.taps, b.taps, outputs, inputs * groups],
    options: {
      stride: [a.stride, b.stride],
      padding: [a.before, a.after, b.before, b.after],
      outputPadding: [a.extra, b.extra],
      dilation: [a.dilation, b.dilation],
      groups,
    },
  }));

export const families: readonly Family[] = [
  {
    op: 'conv2d',
    name: 'conv1d',
    cases: sequences.map(({ x, w, options }) => ({
      inputs: [
        { name: 'x', shape: x },
        { name: 'w', shape: w },
      ],
      build: ([a, b]) => conv1d(a, b, options),
    })),
    runs: 40,
  },
  {
    op: 'conv2dGradInput',
    name: 'convTranspose2d',
    cases: transposed.map(({ x, w, options }) => ({
      inputs: [
        { name: 'x', shape: x },
        { name: 'w', shape: w },
      ],
      build: ([a, b]) => convTranspose2d(a, b, options),
    })),
    runs: 40,
  },
];
