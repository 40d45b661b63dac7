// Comparisons beside less and equal. With NaN on either side each is false, but notEqual, which is true.
import { lift, type Tensor } from '../../tensor.ts';
import { equal } from './equal.ts';
import { less } from './less.ts';
import { logicalNot } from './logicalNot.ts';
import { logicalOr } from './logicalOr.ts';

/** a > b as bool, with broadcasting. */
export const greater = (a: Tensor, b: Tensor | number): Tensor => less(lift(a, b), a);

/** a <= b as bool, with broadcasting. */
export const lessEqual = (a: Tensor, b: Tensor | number): Tensor => logicalOr(less(a, b), equal(a, b));

/** a >= b as bool, with broadcasting. */
export const greaterEqual = (a: Tensor, b: Tensor | number): Tensor => logicalOr(greater(a, b), equal(a, b));

/** a != b as bool, with broadcasting. */
export const notEqual = (a: Tensor, b: Tensor | number): Tensor => logicalNot(equal(a, b));

/** bool: whether each element is NaN. */
export const isNaN = (a: Tensor): Tensor => notEqual(a, a);
