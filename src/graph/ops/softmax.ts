// Softmax over the last axis.
import type { Op } from '../op.ts';
import { boundOf } from '../../base/shape.ts';
import { emit1, type Tensor } from '../tensor.ts';
export const softmaxOp: Op = {
  name: 'softmax', doc: 'exp(x) / sum(exp(x)) over the last axis',
  infer: ([x]) => [x],
  grad({ outputs: [y], douts: [d] }) {
    if (!d) return [null];
    const axes = [y.shape.length - 1], yd = emit1('mul', [y, d]);
    return [emit1('sub', [yd, emit1('mul', [y, emit1('expand', [emit1('sum', [yd], { axes }), y], { axes })])])];
  },
  lower: { kind: 'map', weight: 20, passes: 3, at({ e, inputs: [x] }, index) {
    const dtype = x.type.dtype, row = index.slice(0, -1), n = boundOf(x.type.shape[x.type.shape.length - 1]);
    const max = e.reduce('max', 'lanes', n, (c) => x.at([...row, c]));
    const ex = (i: typeof max): typeof max => e.op('exp', [e.op('sub', [x.at([...row, i]), max], dtype)], dtype);
    const sum = e.reduce('sum', 'lanes', n, ex);
    return e.op('div', [ex(index[index.length - 1]), sum], dtype);
  } },
  reference({ inputs: [x], inTypes: [t] }) {
    const n = boundOf(t.shape[t.shape.length - 1]), out = new Float64Array(x.length);
    for (let r = 0; r < x.length; r += n) {
      const row = x.subarray(r, r + n), m = row.reduce((a, b) => Math.max(a, b), -Infinity), s = row.reduce((a, v) => a + Math.exp(v - m), 0);
      row.forEach((v, i) => { out[r + i] = Math.exp(v - m) / s; });
    }
    return [out];
  },
};
export const softmax = (x: Tensor): Tensor => emit1('softmax', [x]);
