// log(softmax(x)) over the last axis, in terms of logSumExp: exact where a probability is nearly 0.
import type { Tensor } from '../tensor.ts';
import { expand } from './expand.ts';
import { logSumExp } from './logSumExp.ts';
import { sub } from './sub.ts';

/** x - log(sum(e^x)) over the last axis: [..., n] -> [..., n]. */
export const logSoftmax = (x: Tensor): Tensor => sub(x, expand(logSumExp(x), x, [x.shape.length - 1]));
