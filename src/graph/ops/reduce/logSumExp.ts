// log(sum(exp(x))) over the last axis, which is removed.
import { ShapeError } from '../../../base/errors.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { lastAxis } from '../shape/arrange.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    logSumExp: NoAttrs;
  }
}

export const logSumExpOp: Op = {
  // log(sum(exp(x))) over the last axis.
  name: 'logSumExp',
  keepsRows: true,
  takes: ['floats'],
  infer([x]) {
    if (x.shape.length === 0) throw new ShapeError('logSumExp: a scalar has no axis');
    return [{ dtype: x.dtype, shape: x.shape.slice(0, -1) }];
  },
  // d/dx = softmax(x) = exp(x - y)
  grad({ inputs: [x], outputs: [y], douts: [dout] }) {
    if (!dout) return [null];
    const wide = (t: Tensor): Tensor => emit1('expand', [t, x], { axes: [x.shape.length - 1] });
    return [emit1('mul', [emit1('exp', [emit1('sub', [x, wide(y)])]), wide(dout)])];
  },
  lower: {
    kind: 'map',
    weight: 30,
    passes: 2,
    at(call, index) {
      const {
          e,
          inputs: [x],
        } = call,
        dtype = x.type.dtype,
        n = call.extent(x.type, index.length);
      const most = e.reduce('max', 'lanes', n, (c) => x.at([...index, c]));
      // An infinite maximum is not subtracted: if all elements are -infinity, the result is -infinity; with +infinity
      // it is +infinity.
      const max = e.select(e.op('isfinite', [most]), most, e.const(0, dtype));
      const sum = e.reduce('sum', 'lanes', n, (c) => e.op('exp', [e.op('sub', [x.at([...index, c]), max])]));
      return e.op('add', [e.op('log', [sum]), max]);
    },
  },
};

/**
 * log(sum(exp(x))) over `axis` (the last by default), which is removed. The largest element is subtracted first, so
 * that exp does not overflow. Without elements, or if all are -infinity, it is -infinity.
 */
export const logSumExp = (x: Tensor, axis = -1): Tensor => emit1('logSumExp', [lastAxis('logSumExp', x, axis)]);
