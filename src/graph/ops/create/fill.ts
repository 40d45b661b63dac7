// Tensors of one number: never stored.
import type { DType } from '../../../base/dtype.ts';
import { emit1, scalar, type Tensor } from '../../tensor.ts';

/** `value` in every element of a tensor of this shape, in the graph of `like`, whose dtype it has if none is given. */
export const full = (like: Tensor, shape: readonly number[], value: number, dtype: DType = like.dtype): Tensor =>
  like.builder.emit('constant', [], { value, dtype, shape })[0];

/** `value` in every element, of the shape and dtype of `like` (whose first dimension may vary). */
export const fullLike = (like: Tensor, value: number): Tensor =>
  emit1('expand', [scalar(like, value), like], { axes: like.shape.map((_, i) => i) });
/** Zeros of the dtype and shape of another tensor. */
export const zerosLike = (like: Tensor): Tensor => fullLike(like, 0);
/** Ones of the dtype and shape of another tensor. */
export const onesLike = (like: Tensor): Tensor => fullLike(like, 1);
