// Zeros before and after along one axis: the gradient of slice.
import { checkAxis } from '../checked.ts';
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, showShape } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    pad: PadAttrs;
  }
}

export type PadAttrs = { readonly axis: number; readonly before: number; readonly after: number };

export const padOp: Op<PadAttrs> = {
  // x with zeros before and after along an axis.
  name: 'pad',
  moves: 'first',
  takes: ['stored'],
  infer([x], { axis, before, after }) {
    checkAxis('pad', x, axis);
    const d = x.shape[axis];
    if (typeof d !== 'number')
      throw new ShapeError(`pad: dimension ${axis} of ${showShape(x.shape)} varies at run time`);
    if (![before, after].every((n) => Number.isInteger(n) && n >= 0)) {
      throw new ShapeError(
        `pad: cannot add ${before} and ${after} zeros`,
        'whole numbers of at least 0; slice removes elements',
      );
    }
    return [{ dtype: x.dtype, shape: x.shape.map((s, i) => (i === axis ? before + d + after : s)) }];
  },
  grad({ inputs: [x], douts: [dout], attrs: { axis, before } }) {
    return [dout && emit1('slice', [dout], { axis, from: before, to: before + boundOf(x.shape[axis]) })];
  },
  lower: {
    kind: 'map',
    readsEachInputOnce: true,
    at({ e, inputs: [x], attrs: { axis, before } }, index) {
      const n = boundOf(x.type.shape[axis]),
        zero = e.const(0, x.type.dtype);
      if (n === 0) return zero;
      const i = index[axis];
      const inside = e.and(e.le(e.index(before), i), e.lt(i, e.index(before + n)));
      // In the padding, element 0 is read and ignored.
      const at = e.select(inside, e.add(i, -before), e.index(0));
      return e.select(inside, x.at(index.map((d, k) => (k === axis ? at : d))), zero);
    },
  },
};

/** x with `before` and `after` zeros along `axis`. */
export const pad = (x: Tensor, axis: number, before: number, after: number): Tensor =>
  emit1('pad', [x], { axis: axis < 0 ? axis + x.shape.length : axis, before, after });
