// Elements of the last axis by their numbers: y[..., k] = x[..., index[..., k]]. A number outside the axis gives NaN (0
// for integers), or 0 with `zeros`.
import { isFloat } from '../../../base/dtype.ts';
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, sameShape, showShape, type TensorType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    takeAlong: TakeAlongAttrs;
    putAlong: NoAttrs;
  }
}

/** Checks that all dimensions but the last agree. */
export function checkRows(op: string, index: TensorType, x: TensorType): void {
  if (
    index.dtype !== 'int32' ||
    x.shape.length === 0 ||
    x.shape.length !== index.shape.length ||
    !sameShape(index.shape.slice(0, -1), x.shape.slice(0, -1)) ||
    typeof x.shape.at(-1) !== 'number' ||
    typeof index.shape.at(-1) !== 'number'
  ) {
    throw new ShapeError(
      `${op}: int32 indices must agree with ${showShape(x.shape)} in all dimensions but the ` +
        `last, got ${index.dtype}${showShape(index.shape)}`,
    );
  }
}

/** zeros: a number outside the axis gives 0 instead of NaN. */
export type TakeAlongAttrs = { readonly zeros: boolean };

export const takeAlongOp: Op<TakeAlongAttrs> = {
  // x[..., index[..., k]]
  name: 'takeAlong',
  keepsRows: true,
  takes: ['stored'],
  infer([x, index]) {
    checkRows('takeAlong', index, x);
    return [{ dtype: x.dtype, shape: index.shape }];
  },
  grad: ({ inputs: [x, index], douts: [dout] }) => [dout && emit1('putAlong', [index, dout, x]), null],
  lower: {
    kind: 'map',
    weight: 2,
    at({ e, inputs: [x, index], attrs }, at) {
      const n = boundOf(x.type.shape[at.length - 1]),
        outside = e.const(attrs.zeros || !isFloat(x.type.dtype) ? 0 : NaN, x.type.dtype);
      if (n === 0) return outside;
      const c = e.cast(index.at(at), 'index');
      const inside = e.and(e.le(e.index(0), c), e.lt(c, e.index(n)));
      return e.select(inside, x.at([...at.slice(0, -1), e.select(inside, c, e.index(0))]), outside);
    },
  },
};

/** x [..., n], index int32 [..., k] -> [..., k]. */
export const takeAlong = (x: Tensor, index: Tensor): Tensor => emit1('takeAlong', [x, index], { zeros: false });

export const putAlongOp: Op = {
  // Element c of the last axis is the sum of the values whose index is c, in their order.
  name: 'putAlong',
  keepsRows: true,
  takes: ['any', 'numbers', 'stored'],
  unread: [2],
  infer([index, values, like]) {
    checkRows('putAlong', index, like);
    if (!sameShape(values.shape, index.shape))
      throw new ShapeError(`putAlong: ${showShape(values.shape)} values for ${showShape(index.shape)} indices`);
    return [{ dtype: values.dtype, shape: like.shape }];
  },
  grad: ({ inputs: [index], douts: [dout] }) => [
    null,
    dout && emit1('takeAlong', [dout, index], { zeros: true }),
    null,
  ],
  lower: {
    kind: 'map',
    weight: 8,
    passes: 1,
    at({ e, inputs: [index, values] }, at) {
      const dtype = values.type.dtype,
        k = boundOf(index.type.shape[at.length - 1]),
        lead = at.slice(0, -1);
      const part = (i: (typeof at)[number]) => {
        const hit = e.eq(e.cast(index.at([...lead, i]), 'index'), at[lead.length]);
        return e.select(hit, values.at([...lead, i]), e.const(0, dtype));
      };
      if (k > 16) return e.reduce('sum', 'lanes', k, part);
      return Array.from({ length: k }, (_, i) => part(e.index(i))).reduce(
        (a, b) => e.op('add', [a, b]),
        e.const(0, dtype),
      );
    },
  },
};

/** index int32 [..., k], values [..., k], like [..., n] (its values are not read) -> [..., n]. */
export const putAlong = (index: Tensor, values: Tensor, like: Tensor): Tensor =>
  emit1('putAlong', [index, values, like]);
