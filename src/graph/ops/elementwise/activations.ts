// Functions of one number in terms of others: further activations, clamp, sign.
import { scalar, type Tensor } from '../../tensor.ts';
import { add } from './add.ts';
import { erf } from './erf.ts';
import { exp } from './exp.ts';
import { less } from './less.ts';
import { maximum } from './maximum.ts';
import { minimum } from './minimum.ts';
import { mul } from './mul.ts';
import { neg } from './neg.ts';
import { softplus } from './softplus.ts';
import { sub } from './sub.ts';
import { where } from './where.ts';

const positive = (x: Tensor): Tensor => less(scalar(x, 0), x);

/** min(max(x, low), high); NaN stays. The gradient is 0 outside, that of x within and at the borders. */
export const clamp = (x: Tensor, low: Tensor | number, high: Tensor | number): Tensor => minimum(maximum(x, low), high);

/** -1, 0 or 1; NaN stays. The gradient is 0. */
export const sign = (x: Tensor): Tensor =>
  where(positive(x), scalar(x, 1), x.dtype === 'uint32' ? mul(x, 0) : where(less(x, 0), scalar(x, -1), mul(x, 0)));

/** x above 0, slope * x below. */
export const leakyRelu = (x: Tensor, slope = 0.01): Tensor => where(positive(x), x, mul(x, slope));

/** x above 0, alpha (e^x - 1) below (Clevert et al. 2015). */
export const elu = (x: Tensor, alpha = 1): Tensor => where(positive(x), x, mul(sub(exp(minimum(x, 0)), 1), alpha));

/** log(sigmoid(x)), without loss of precision for large negative x. */
export const logSigmoid = (x: Tensor): Tensor => neg(softplus(neg(x)));

/** min(max(x / 6 + 1/2, 0), 1). */
export const hardSigmoid = (x: Tensor): Tensor => clamp(add(mul(x, 1 / 6), 0.5), 0, 1);

/** x hardSigmoid(x) (Howard et al. 2019). */
export const hardSwish = (x: Tensor): Tensor => mul(x, hardSigmoid(x));

/** The exact GELU, x (1 + erf(x / sqrt 2)) / 2; `gelu` is its tanh approximation. */
export const geluExact = (x: Tensor): Tensor => mul(mul(x, 0.5), add(erf(mul(x, Math.SQRT1_2)), 1));
