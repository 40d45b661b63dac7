// Tensors of one number: never stored.
import { emit1, scalar, type Tensor } from '../../tensor.ts';

/** A tensor with `value` in every element, with the shape and dtype of `like` (whose first dimension may vary). */
export const fullLike = (like: Tensor, value: number): Tensor =>
  emit1('expand', [scalar(like, value), like], { axes: like.shape.map((_, i) => i) });
/** Zeros of the dtype and shape of another tensor. */
export const zerosLike = (like: Tensor): Tensor => fullLike(like, 0);
/** Ones of the dtype and shape of another tensor. */
export const onesLike = (like: Tensor): Tensor => fullLike(like, 1);
