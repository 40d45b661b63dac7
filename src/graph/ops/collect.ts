// Sums each token's rows.
import type { Op } from '../op.ts';
import { boundOf, elements } from '../../base/shape.ts';
export type CollectAttrs = { readonly k: number };
export const collectOp: Op<CollectAttrs> = {
  name: 'collect', doc: 'row t = sum over j of rows[inverse[t k + j]]',
  infer: ([x, inverse], { k }) => [{ dtype: x.dtype, shape: [boundOf(inverse.shape[0]) / k, ...x.shape.slice(1)] }],
  lower: { kind: 'map', weight: 2, at: ({ e, inputs: [x, inverse], attrs: { k } }, [t, ...rest]) => {
    const one = (j: number): typeof t => x.at([e.op('cast', [inverse.at([e.linear(j, [[k, t]])])], 'index'), ...rest]);
    let s = one(0);
    for (let j = 1; j < k; j++) s = e.op('add', [s, one(j)], x.type.dtype);
    return s;
  } },
  reference({ inputs: [x, inverse], inTypes: [t], outTypes: [o], attrs: { k } }) {
    const w = elements(t.shape.slice(1)), out = new Float64Array(elements(o.shape));
    inverse.forEach((r, i) => { for (let c = 0; c < w; c++) out[Math.floor(i / k) * w + c] += x[r * w + c]; });
    return [out];
  },
};
