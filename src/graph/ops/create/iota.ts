// The index of each element along an axis, as int32: used to make masks.
import { checkAxis } from '../checked.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    iota: IotaAttrs;
  }
}

export type IotaAttrs = { readonly axis: number };

export const iotaOp: Op<IotaAttrs> = {
  // Index along an axis of each element of x, whose values are not read.
  name: 'iota',
  keepsRows: true,
  takes: ['stored'],
  unread: [0],
  infer([x], { axis }) {
    checkAxis('iota', x, axis);
    return [{ dtype: 'int32', shape: x.shape }];
  },
  lower: { kind: 'map', weight: 0, at: ({ e, attrs: { axis } }, index) => e.cast(index[axis], 'int32') },
};

/** int32 of the shape of `like` (its values are not read): each element's index along `axis`. */
export const iota = (like: Tensor, axis: number): Tensor =>
  emit1('iota', [like], { axis: axis < 0 ? axis + like.shape.length : axis });
