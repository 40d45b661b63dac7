// Rows of tokens in the order of their experts.
import type { Op } from '../op.ts';
import { boundOf, elements } from '../../base/shape.ts';
import { emit1, type Tensor } from '../tensor.ts';
export type DispatchAttrs = { readonly k: number };
export const dispatchOp: Op<DispatchAttrs> = {
  name: 'dispatch', doc: 'row r = x[order[r] / k]',
  unread: [2, 3],
  infer: ([x, order, offsets], _, ids) => [{ dtype: x.dtype, shape: [
    { kind: 'segmented', bound: boundOf(order.shape[0]), segments: boundOf(offsets.shape[0]) - 1, offsets: ids[2] }, ...x.shape.slice(1)] }],
  grad: ({ inputs: [, , , inverse], douts: [d], attrs }) => [d && emit1('collect', [d, inverse], attrs), null, null, null],
  lower: { kind: 'map', weight: 0, at: ({ e, inputs: [x, order], attrs: { k } }, [r, ...rest]) =>
    x.at([e.div(e.op('cast', [order.at([r])], 'index'), k), ...rest]) },
  reference({ inputs: [x, order], inTypes: [t], outTypes: [o], attrs: { k }, rows }) {
    const w = elements(t.shape.slice(1)), out = new Float64Array(elements(o.shape)).fill(NaN), n = rows(o);
    for (let r = 0; r < n; r++) for (let c = 0; c < w; c++) out[r * w + c] = x[Math.floor(order[r] / k) * w + c];
    return [out];
  },
};
export const dispatch = (x: Tensor, order: Tensor, offsets: Tensor, inverse: Tensor, attrs: DispatchAttrs): Tensor => emit1('dispatch', [x, order, offsets, inverse], attrs);
