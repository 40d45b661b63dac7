// A contiguous range along one axis.
import type { Op } from '../op.ts';
import { boundOf, elements, sizes, stridesOf } from '../../base/shape.ts';
import { emit1, type Tensor } from '../tensor.ts';
export type SliceAttrs = { readonly axis: number; readonly start: number; readonly end: number };
export const sliceOp: Op<SliceAttrs> = {
  name: 'slice', doc: 'x[start..end] along axis',
  infer: ([x], { axis, start, end }) => [{ dtype: x.dtype, shape: x.shape.map((d, i) => (i === axis ? end - start : d)) }],
  grad: ({ inputs: [x], douts: [dout], attrs: { axis, start } }) => [dout && emit1('pad', [dout], { axis, start, size: boundOf(x.shape[axis]) })],
  lower: { kind: 'map', weight: 0, at: ({ e, inputs: [x], attrs: { axis, start } }, index) => x.at(index.map((i, d) => (d === axis ? e.linear(start, [[1, i]]) : i))) },
  reference({ inputs: [x], inTypes: [t], outTypes: [o], attrs: { axis, start } }) {
    const dims = sizes(o.shape), own = stridesOf(o.shape), st = stridesOf(t.shape), out = new Float64Array(elements(o.shape));
    for (let f = 0; f < out.length; f++) out[f] = x[dims.reduce((s, d, i) => s + ((Math.floor(f / own[i]) % d) + (i === axis ? start : 0)) * st[i], 0)];
    return [out];
  },
};
export const slice = (x: Tensor, axis: number, start: number, end: number): Tensor => emit1('slice', [x], { axis, start, end });
