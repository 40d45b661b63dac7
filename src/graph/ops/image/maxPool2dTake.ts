// From another image, the elements at the places that a max-pooling chose: the gradient of its gradient.
import { ShapeError } from '../../../base/errors.ts';
import { sameShape, showType, sizes } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1 } from '../../tensor.ts';
import { checkPooled, poolAxes, pooled, type PoolAttrs } from './pooling.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    maxPool2dTake: PoolAttrs;
  }
}

export const maxPool2dTakeOp: Op<PoolAttrs> = {
  // The element of each window with the number `which`.
  name: 'maxPool2dTake',
  keepsRows: true,
  takes: ['floats'],
  infer([x, which], attrs) {
    const axes = poolAxes('maxPool2dTake', x, attrs);
    checkPooled('maxPool2dTake', which, axes);
    if (which.dtype !== 'int32' || !sameShape(which.shape, pooled(x, axes)))
      throw new ShapeError(`maxPool2dTake: numbers ${showType(which)} do not fit ${showType(x)}`);
    return [{ dtype: x.dtype, shape: pooled(x, axes) }];
  },
  grad: ({ inputs: [x, which], douts: [u], attrs }) => [
    u && emit1('maxPool2dGrad', [u, which], { ...attrs, size: sizes(x.shape).slice(1, 3) }),
    null,
  ],
  lower: {
    kind: 'map',
    weight: 4,
    at({ e, inputs: [x, which], attrs }, [n, r, q, c]) {
      const [rows, columns] = poolAxes('maxPool2dTake', x.type, attrs),
        tap = e.cast(which.at([n, r, q, c]), 'index');
      return x.at([
        n,
        e.add([rows.stride, r], e.div(tap, columns.taps), -rows.before),
        e.add([columns.stride, q], e.mod(tap, columns.taps), -columns.before),
        c,
      ]);
    },
  },
};
