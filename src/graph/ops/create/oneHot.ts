// 1 at each index, 0 elsewhere, along a new last axis; an index outside it gives a row of zeros.
import { ShapeError } from '../../../base/errors.ts';
import type { TensorType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    oneHot: OneHotAttrs;
  }
}

export type OneHotAttrs = { readonly classes: number };

export const oneHotOp: Op<OneHotAttrs> = {
  // 1 where the last index equals x, else 0.
  name: 'oneHot',
  keepsRows: true,
  infer([x], { classes }): TensorType[] {
    if (!Number.isInteger(classes) || classes < 1)
      throw new ShapeError(`oneHot: needs at least one class, got ${String(classes)}`);
    if (x.dtype !== 'int32') throw new ShapeError(`oneHot: needs int32, got ${x.dtype}`);
    return [{ dtype: 'float32', shape: [...x.shape, classes] }];
  },
  lower: {
    kind: 'map',
    at({ e, inputs: [x] }, index) {
      const hit = e.eq(e.cast(x.at(index.slice(0, -1)), 'index'), index[index.length - 1]);
      return e.select(hit, e.const(1, 'float32'), e.const(0, 'float32'));
    },
  },
};

/** int32 [...] -> float32 [..., classes]. Gradients treat it as a constant, since integers carry none. */
export const oneHot = (x: Tensor, classes: number): Tensor => emit1('oneHot', [x], { classes });
