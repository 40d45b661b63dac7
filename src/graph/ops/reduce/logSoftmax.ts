// log(softmax(x)) over an axis, from logSumExp: exact also where a probability is nearly 0.
import type { Tensor } from '../../tensor.ts';
import { expand } from '../shape/expand.ts';
import { logSumExp } from './logSumExp.ts';
import { sub } from '../elementwise/sub.ts';

/** x - log(sum(e^x)) over `axis` (the last by default), of x's shape. */
export const logSoftmax = (x: Tensor, axis = -1): Tensor =>
  sub(x, expand(logSumExp(x, axis), x, [axis < 0 ? axis + x.shape.length : axis]));
