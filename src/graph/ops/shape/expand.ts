// The reverse of a reduction: repeats a tensor along axes that it does not have.
import { checkAxes } from '../checked.ts';
import { ShapeError } from '../../../base/errors.ts';
import { elements, sameShape, showShape, sizes, stridesOf } from '../../../base/shape.ts';
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
  reference({ inputs: [x], outTypes: [type], attrs }) {
    const dims = sizes(type.shape),
      own = stridesOf(type.shape.filter((_, i) => !attrs.axes.includes(i)));
    const all = stridesOf(type.shape);
    let kept = 0;
    const step = dims.map((_, i) => (attrs.axes.includes(i) ? 0 : own[kept++]));
    const out = new Float64Array(elements(type.shape));
    for (let flat = 0; flat < out.length; flat++) {
      out[flat] = x[dims.reduce((o, d, i) => o + (Math.floor(flat / all[i]) % d) * step[i], 0)];
    }
    return [out];
  },
};

/** `x`, which lacks `axes` of `like`, repeated along them. */
export const expand = (x: Tensor, like: Tensor, axes: readonly number[]): Tensor =>
  emit1('expand', [x, like], { axes });
