// Weighted sum of each token's rows.
import type { Op } from '../op.ts';
import { boundOf, elements } from '../../base/shape.ts';
import { emit1, type Tensor } from '../tensor.ts';
export const combineOp: Op = {
  name: 'combine', doc: 'row t = sum over j of weights[t, j] * rows[inverse[t k + j]]',
  unread: [2],
  infer: ([x, , , w]) => [{ dtype: x.dtype, shape: [w.shape[0], ...x.shape.slice(1)] }],
  grad({ inputs: [x, inverse, order, w], douts: [d] }) {
    if (!d) return [null, null, null, null];
    const k = boundOf(w.shape[1]), tk = boundOf(inverse.shape[0]), width = boundOf(x.shape[1]);
    const offsets = x.builder.tensor(x.shape[0] && typeof x.shape[0] !== 'number' && x.shape[0].kind === 'segmented' ? x.shape[0].offsets : -1);
    const flat = emit1('reshape', [w, ], { shape: [tk] });
    const sent = emit1('dispatch', [d, order, offsets, inverse], { k });
    const gate = emit1('dispatch', [flat, order, offsets, inverse], { k: 1 });
    const back = emit1('mul', [sent, emit1('expand', [gate, sent], { axes: [1] })]);
    const mine = emit1('reshape', [emit1('gather', [x, inverse], { zeros: false }), ], { shape: [tk / k, k, width] });
    const wide = emit1('expand', [d, mine], { axes: [1] });
    return [back, null, null, emit1('sum', [emit1('mul', [mine, wide])], { axes: [2] })];
  },
  lower: { kind: 'map', weight: 4, at: ({ e, inputs: [x, inverse, , w] }, [t, ...rest]) => {
    const k = boundOf(w.type.shape[1]), dtype = x.type.dtype;
    let s = e.const(0, dtype);
    for (let j = 0; j < k; j++) {
      const y = x.at([e.op('cast', [inverse.at([e.linear(j, [[k, t]])])], 'index'), ...rest]);
      s = e.op('fma', [w.at([t, e.index(j)]), y, s], dtype);
    }
    return s;
  } },
  reference({ inputs: [x, inverse, , w], inTypes: [t, , , wt], outTypes: [o] }) {
    const n = elements(t.shape.slice(1)), k = boundOf(wt.shape[1]), out = new Float64Array(elements(o.shape));
    inverse.forEach((r, i) => { for (let c = 0; c < n; c++) out[Math.floor(i / k) * n + c] += w[i] * x[r * n + c]; });
    return [out];
  },
};
export const combine = (rows: Tensor, inverse: Tensor, order: Tensor, weights: Tensor): Tensor => emit1('combine', [rows, inverse, order, weights]);
