// x / sqrt(mean(x^2) + eps) * gain.
import { boundOf } from '../../base/shape.ts';
import { emit1, scalar, type Tensor } from '../tensor.ts';
export function rmsNorm(x: Tensor, gain: Tensor, eps: number): Tensor {
  const axes = [x.shape.length - 1], n = boundOf(x.shape[axes[0]]);
  const ms = emit1('mul', [emit1('sum', [emit1('mul', [x, x])], { axes }), scalar(x, 1 / n)]);
  const rstd = emit1('div', [scalar(x, 1), emit1('sqrt', [emit1('add', [ms, scalar(x, eps)])])]);
  return emit1('mul', [emit1('mul', [x, emit1('expand', [rstd, x], { axes })]), gain]);
}
