// Reductions made of other ops: minimum, product, standard deviation, norms, any and all.
import { UserError } from '../../../base/errors.ts';
import { boundOf } from '../../../base/shape.ts';
import { full, scalar, type Tensor } from '../../tensor.ts';
import { abs } from '../elementwise/abs.ts';
import { downwards } from './argMax.ts';
import { cast } from '../elementwise/cast.ts';
import { concat } from '../shape/concat.ts';
import { equal } from '../elementwise/equal.ts';
import { logicalNot } from '../elementwise/logicalNot.ts';
import { max } from './max.ts';
import { mul } from '../elementwise/mul.ts';
import { normaliseAxes } from './reduce.ts';
import { reshape } from '../shape/reshape.ts';
import { slice } from '../shape/slice.ts';
import { sqrt } from '../elementwise/sqrt.ts';
import { sum, variance } from './sum.ts';
import { where } from '../elementwise/where.ts';

/**
 * Minimum over `axes` (all by default), which are removed; NaN if one element is NaN. Equal minima share the gradient
 * in equal parts.
 */
export const min = (x: Tensor, axes?: readonly number[]): Tensor => downwards(max(downwards(x), axes));

/**
 * Product over `axes` (all by default), which must have fixed sizes and are removed; without elements it is 1. Halves
 * are multiplied with each other, so the order is that of a tree.
 */
export function prod(x: Tensor, axes?: readonly number[]): Tensor {
  return normaliseAxes('prod', x, axes)
    .reverse()
    .reduce((t, axis) => {
      let size = boundOf(t.shape[axis]),
        rest = t;
      const part = (from: number, to: number): Tensor => slice(rest, axis, from, to);
      const shape = t.shape.map(boundOf).filter((_, i) => i !== axis);
      if (size === 0) return full(x, shape, 1);
      while (size > 1) {
        const half = Math.floor(size / 2),
          pairs = mul(part(0, half), part(half, 2 * half));
        rest = size % 2 ? concat([pairs, part(2 * half, size)], axis) : pairs;
        size = half + (size % 2);
      }
      return reshape(rest, shape);
    }, x);
}

/** The square root, whose gradient at 0 is 0. */
function root(x: Tensor): Tensor {
  const zero = equal(x, 0);
  return where(zero, scalar(x, 0), sqrt(where(zero, scalar(x, 1), x)));
}

/**
 * Standard deviation over `axes` (all by default): the root of the mean squared distance from the mean; its gradient is
 * 0 where it is 0.
 */
export const std = (x: Tensor, axes?: readonly number[]): Tensor => root(variance(x, axes));

/**
 * Length of x as a vector over `axes` (all by default): p = 2 (Euclidean), 1 (sum of magnitudes), Infinity (largest
 * magnitude). Its gradient is 0 where the length is 0.
 */
export function norm(x: Tensor, axes?: readonly number[], p = 2): Tensor {
  switch (p) {
    case 1:
      return sum(abs(x), axes);
    case 2:
      return root(sum(mul(x, x), axes));
    case Infinity:
      return max(abs(x), axes);
    default:
      throw new UserError(`norm: p must be 1, 2 or Infinity, got ${p}`);
  }
}

/** bool: whether any element over `axes` (all by default) is true. */
export const any = (x: Tensor, axes?: readonly number[]): Tensor => cast(max(cast(x, 'int32'), axes), 'bool');

/** bool: whether all elements over `axes` (all by default) are true. */
export const all = (x: Tensor, axes?: readonly number[]): Tensor => logicalNot(any(logicalNot(x), axes));
