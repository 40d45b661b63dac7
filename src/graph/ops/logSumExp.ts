// log(sum(exp(x))) of the last axis, which disappears.
import type { Op } from '../op.ts';
import { boundOf, elements } from '../../base/shape.ts';
import { emit1, type Tensor } from '../tensor.ts';
import { lastAxis } from './arrange.ts';

export const logSumExpOp: Op = {
  // log(sum(exp(x))) over the last axis.
  name: 'logSumExp',
  infer: ([x]) => [{ dtype: x.dtype, shape: x.shape.slice(0, -1) }],
  // d/dx = softmax(x) = exp(x - y)
  grad({ inputs: [x], outputs: [y], douts: [dout] }) {
    if (!dout) return [null];
    const wide = (t: Tensor): Tensor => emit1('expand', [t, x], { axes: [x.shape.length - 1] });
    return [emit1('mul', [emit1('exp', [emit1('sub', [x, wide(y)])]), wide(dout)])];
  },
  lower: { kind: 'map', weight: 30, passes: 2, at({ e, inputs: [x] }, index) {
    const dtype = x.type.dtype, n = boundOf(x.type.shape[x.type.shape.length - 1]);
    const max = e.reduce('max', 'lanes', n, (c) => x.at([...index, c]));
    const sum = e.reduce('sum', 'lanes', n, (c) => e.op('exp', [e.op('sub', [x.at([...index, c]), max], dtype)], dtype));
    return e.op('add', [e.op('log', [sum], dtype), max], dtype);
  } },
  reference({ inputs: [x], inTypes: [type], outTypes: [out] }) {
    const n = boundOf(type.shape[type.shape.length - 1]);
    return [Float64Array.from({ length: elements(out.shape) }, (_, r) => {
      const row = x.subarray(r * n, r * n + n), max = row.reduce((a, b) => Math.max(a, b), -Infinity);
      return max + Math.log(row.reduce((s, v) => s + Math.exp(v - max), 0));
    })];
  },
};

/** log(sum(exp(x))) over `axis` (the last by default), which disappears; computed from the largest element down so that it does not overflow. */
export const logSumExp = (x: Tensor, axis = -1): Tensor => emit1('logSumExp', [lastAxis('logSumExp', x, axis)]);
