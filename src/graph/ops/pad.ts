// Zeros around a tensor along one axis.
import type { Op } from '../op.ts';
import { boundOf, elements, sizes, stridesOf } from '../../base/shape.ts';
import { emit1, type Tensor } from '../tensor.ts';
export type PadAttrs = { readonly axis: number; readonly start: number; readonly size: number };
export const padOp: Op<PadAttrs> = {
  name: 'pad', doc: 'x at start.. of an axis of zeros of the given size',
  infer: ([x], { axis, size }) => [{ dtype: x.dtype, shape: x.shape.map((d, i) => (i === axis ? size : d)) }],
  grad: ({ inputs: [x], douts: [dout], attrs: { axis, start } }) => [dout && emit1('slice', [dout], { axis, start, end: start + boundOf(x.shape[axis]) })],
  lower: { kind: 'map', weight: 1, at({ e, inputs: [x], attrs: { axis, start } }, index) {
    const n = boundOf(x.type.shape[axis]), i = index[axis], dtype = x.type.dtype;
    const at = e.linear(-start, [[1, i]]);
    const inside = e.op('and', [e.op('le', [e.index(start), i], 'bool'), e.op('lt', [i, e.index(start + n)], 'bool')], 'bool');
    const safe = e.op('min', [e.op('max', [at, e.index(0)], 'index'), e.index(n - 1)], 'index');
    return e.op('select', [inside, x.at(index.map((v, d) => (d === axis ? safe : v))), e.const(0, dtype)], dtype);
  } },
  reference({ inputs: [x], inTypes: [t], outTypes: [o], attrs: { axis, start } }) {
    const dims = sizes(t.shape), own = stridesOf(t.shape), st = stridesOf(o.shape), out = new Float64Array(elements(o.shape));
    for (let f = 0; f < x.length; f++) out[dims.reduce((s, d, i) => s + ((Math.floor(f / own[i]) % d) + (i === axis ? start : 0)) * st[i], 0)] = x[f];
    return [out];
  },
};
export const pad = (x: Tensor, axis: number, start: number, size: number): Tensor => emit1('pad', [x], { axis, start, size });
