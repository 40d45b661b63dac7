// The gradient of maxPool2d: each place of the image gathers, from the few outputs whose window covers it, the
// gradients of those that chose it, in the order of their taps.
import { ShapeError } from '../../../base/errors.ts';
import { sameShape, showType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1 } from '../../tensor.ts';
import { checkPooled, lookers, poolAxes, unpooled, type PoolGradAttrs } from './pooling.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    maxPool2dGrad: PoolGradAttrs;
  }
}

export const maxPool2dGradOp: Op<PoolGradAttrs> = {
  // For each place, the sum of dy over the windows whose largest element it is (`which`).
  name: 'maxPool2dGrad',
  keepsRows: true,
  takes: ['floats'],
  infer([dy, which], attrs) {
    const x = unpooled(dy, attrs.size),
      axes = poolAxes('maxPool2dGrad', x, attrs);
    checkPooled('maxPool2dGrad', dy, axes);
    if (which.dtype !== 'int32' || !sameShape(which.shape, dy.shape))
      throw new ShapeError(`maxPool2dGrad: numbers ${showType(which)} do not fit ${showType(dy)}`);
    return [x];
  },
  grad: ({ inputs: [, which], douts: [u], attrs: { size: _, ...attrs } }) => [
    u && emit1('maxPool2dTake', [u, which], attrs),
    null,
  ],
  lower: {
    kind: 'map',
    weight: 6,
    at({ e, inputs: [dy, which], outTypes: [x], attrs }, [n, h, v, c]) {
      const zero = e.const(0, x.dtype);
      return lookers(e, poolAxes('maxPool2dGrad', x, attrs), h, v)
        .map((t) => {
          const chosen = e.eq(which.at([n, t.row, t.column, c]), e.cast(t.number, 'int32'));
          return e.select(e.and(t.inside, chosen), dy.at([n, t.row, t.column, c]), zero);
        })
        .reduce((a, b) => e.op('add', [a, b]));
    },
  },
};
