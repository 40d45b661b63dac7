// The same elements in row-major order with another shape: never a copy. A varying first dimension does not change.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, showShape, stridesOf, type Dim } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    reshape: ReshapeAttrs;
  }
}

/** `shape[0]` is the bound where the input's first dimension varies. */
export type ReshapeAttrs = { readonly shape: readonly number[] };

export const reshapeOp: Op<ReshapeAttrs> = {
  // The elements of x in the same order under another shape.
  name: 'reshape',
  moves: 'first',
  takes: ['stored'],
  infer([x], { shape }) {
    const from = x.shape.reduce<number>((n, d) => n * boundOf(d), 1),
      to = shape.reduce((n, d) => n * d, 1);
    if (from !== to)
      throw new ShapeError(`reshape: ${showShape(x.shape)} has ${from} elements, [${shape.join(', ')}] has ${to}`);
    const first = x.shape[0];
    if (first === undefined || typeof first === 'number') return [{ dtype: x.dtype, shape }];
    if (shape[0] !== first.bound) {
      throw new ShapeError(
        `reshape: the first dimension of ${showShape(x.shape)} varies at run time and cannot be ` + `merged or split`,
      );
    }
    return [{ dtype: x.dtype, shape: [first, ...shape.slice(1)] }];
  },
  grad: ({ inputs: [x], douts: [dout] }) => [dout && emit1('reshape', [dout], { shape: x.shape.map(boundOf) })],
  lower: {
    kind: 'map',
    weight: 0,
    at({ e, inputs: [x], outTypes: [type] }, index) {
      const strides = stridesOf(type.shape);
      return x.linear(
        e.linear(
          0,
          index.map((i, d) => [strides[d], i]),
        ),
      );
    },
    linear: ({ inputs: [x] }, l) => x.linear(l),
  },
};

/** `shape` may contain one -1, which is computed from the other sizes. */
export function reshape(x: Tensor, shape: readonly number[]): Tensor {
  const known = shape.reduce((n, d) => (d === -1 ? n : n * d), 1);
  const total = x.shape.reduce<number>((n, d) => n * boundOf(d), 1);
  const full = shape.map((d) => (d === -1 ? total / known : d));
  if (full.length === x.shape.length && full.every((d, i) => boundOf(x.shape[i]) === d)) return x;
  return emit1('reshape', [x], { shape: full });
}

/** Dimensions `from`..`to` (inclusive, negative from the end) merged into one. */
export function flatten(x: Tensor, from = 0, to = -1): Tensor {
  const dims: number[] = x.shape.map((d: Dim) => boundOf(d)),
    last = to < 0 ? to + dims.length : to;
  if (![from, last].every((a) => Number.isInteger(a) && a >= 0 && a < dims.length) || from > last) {
    throw new ShapeError(`flatten: ${showShape(x.shape)} has no dimensions ${String(from)} to ${String(to)}`);
  }
  const merged = dims.slice(from, last + 1).reduce((n, d) => n * d, 1);
  return reshape(x, [...dims.slice(0, from), merged, ...dims.slice(last + 1)]);
}
