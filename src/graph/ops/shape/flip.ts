// One axis in reverse order. Kernels read through it.
import { checkAxis } from '../checked.ts';
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, showShape } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    flip: FlipAttrs;
  }
}

export type FlipAttrs = { readonly axis: number };

export const flipOp: Op<FlipAttrs> = {
  // x with an axis in reverse order.
  name: 'flip',
  moves: 'first',
  takes: ['stored'],
  infer([x], { axis }) {
    checkAxis('flip', x, axis);
    if (typeof x.shape[axis] !== 'number')
      throw new ShapeError(`flip: dimension ${axis} of ${showShape(x.shape)} varies at run time`);
    return [x];
  },
  grad: ({ douts: [dout], attrs }) => [dout && emit1('flip', [dout], attrs)],
  lower: {
    kind: 'map',
    weight: 0,
    at: ({ e, inputs: [x], attrs: { axis } }, index) =>
      x.at(index.map((i, d) => (d === axis ? e.add([-1, i], boundOf(x.type.shape[axis]) - 1) : i))),
  },
};

/** x with `axis` (negative: from the end) in reverse order. */
export const flip = (x: Tensor, axis: number): Tensor =>
  emit1('flip', [x], { axis: axis < 0 ? axis + x.shape.length : axis });
