// Rows of a table.
import type { Op } from '../op.ts';
import { boundOf, elements } from '../../base/shape.ts';
import { emit1, type Tensor } from '../tensor.ts';
export const gatherOp: Op = {
  name: 'gather', doc: 'table[index]',
  infer: ([t, i]) => [{ dtype: t.dtype, shape: [...i.shape, ...t.shape.slice(1)] }],
  grad: ({ inputs: [t, i], douts: [d] }) => [d && emit1('scatterAdd', [d, i], { rows: boundOf(t.shape[0]) }), null],
  lower: { kind: 'map', weight: 0, at: ({ e, inputs: [t, i] }, index) => {
    const n = i.type.shape.length;
    return t.at([e.op('cast', [i.at(index.slice(0, n))], 'index'), ...index.slice(n)]);
  } },
  reference({ inputs: [t, i], inTypes: [tt], outTypes: [o] }) {
    const w = elements(tt.shape.slice(1)), out = new Float64Array(elements(o.shape));
    i.forEach((r, k) => { for (let c = 0; c < w; c++) out[k * w + c] = t[r * w + c]; });
    return [out];
  },
};
export const gather = (table: Tensor, index: Tensor): Tensor => emit1('gather', [table, index]);
