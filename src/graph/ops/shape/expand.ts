// The reverse of a reduction: repeats a tensor along axes that it does not have.
import { checkAxes } from '../checked.ts';
import { ShapeError } from '../../../base/errors.ts';
import { sameShape, showShape } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    expand: ExpandAttrs;
  }
}

export type ExpandAttrs = { readonly axes: readonly number[] };

export const expandOp: Op<ExpandAttrs> = {
  // x repeated along `axes` to the shape of `like`, whose values are not read.
  name: 'expand',
  moves: 'first',
  takes: ['stored', 'stored'],
  unread: [1],
  infer([x, like], { axes }) {
    checkAxes('expand', like, axes);
    if (
      !sameShape(
        x.shape,
        like.shape.filter((_, i) => !axes.includes(i)),
      )
    ) {
      throw new ShapeError(
        `expand: ${showShape(x.shape)} is not ${showShape(like.shape)} without dimensions ` + `${axes.join(', ')}`,
      );
    }
    return [{ dtype: x.dtype, shape: like.shape }];
  },
  grad: ({ douts: [dout], attrs }) => [dout && emit1('sum', [dout], { axes: attrs.axes }), null],
  lower: {
    kind: 'map',
    weight: 0,
    at: ({ inputs: [x], attrs }, index) => x.at(index.filter((_, i) => !attrs.axes.includes(i))),
  },
};

/** `x`, which lacks `axes` of `like`, repeated along them. */
export const expand = (x: Tensor, like: Tensor, axes: readonly number[]): Tensor =>
  emit1('expand', [x, like], { axes });
