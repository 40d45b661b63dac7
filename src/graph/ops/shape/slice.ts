// A range of one axis. Kernels read the input directly; the range is not copied if its reader reads it once.
import { checkAxis } from '../checked.ts';
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, showShape } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    slice: SliceAttrs;
  }
}

/** Elements from..to-1 of `axis`. */
export type SliceAttrs = { readonly axis: number; readonly from: number; readonly to: number };

export const sliceOp: Op<SliceAttrs> = {
  // Elements from..to-1 of an axis of x.
  name: 'slice',
  moves: 'first',
  takes: ['stored'],
  infer([x], { axis, from, to }) {
    checkAxis('slice', x, axis);
    const d = x.shape[axis];
    if (typeof d !== 'number')
      throw new ShapeError(`slice: dimension ${axis} of ${showShape(x.shape)} varies at run time`);
    if (!([from, to].every(Number.isInteger) && from >= 0 && from <= to && to <= d))
      throw new ShapeError(`slice: ${from}..${to} is no range of dimension ${axis} of ${showShape(x.shape)}`);
    return [{ dtype: x.dtype, shape: x.shape.map((s, i) => (i === axis ? to - from : s)) }];
  },
  grad({ inputs: [x], douts: [dout], attrs: { axis, from, to } }) {
    return [dout && emit1('pad', [dout], { axis, before: from, after: boundOf(x.shape[axis]) - to })];
  },
  lower: {
    kind: 'map',
    weight: 0,
    at: ({ e, inputs: [x], attrs: { axis, from } }, index) =>
      x.at(index.map((i, d) => (d === axis ? e.add(i, from) : i))),
  },
};

/** Elements from..to-1 of `axis` (both may count from the end if negative). */
export function slice(x: Tensor, axis: number, from: number, to: number): Tensor {
  const at = axis < 0 ? axis + x.shape.length : axis,
    size = x.shape[at] === undefined ? 0 : boundOf(x.shape[at]);
  const [start, end] = [from, to].map((i) => (i < 0 ? i + size : i));
  return start === 0 && end === size && typeof x.shape[at] === 'number'
    ? x
    : emit1('slice', [x], { axis: at, from: start, to: end });
}
