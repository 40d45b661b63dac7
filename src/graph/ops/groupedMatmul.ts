// Each expert's rows times its matrix.
import type { Op } from '../op.ts';
import { boundOf, elements } from '../../base/shape.ts';
import { ShapeError } from '../../base/errors.ts';
import { emit1, type Tensor } from '../tensor.ts';
export type GroupedMatmulAttrs = { readonly transB: boolean };
export const groupedMatmulOp: Op<GroupedMatmulAttrs> = {
  name: 'groupedMatmul', doc: 'rows of segment e times w[e]',
  infer([x, w], { transB }) {
    if (typeof x.shape[0] === 'number' || boundOf(x.shape[1]) !== boundOf(w.shape[transB ? 2 : 1])) throw new ShapeError('groupedMatmul: shapes do not fit');
    return [{ dtype: x.dtype, shape: [x.shape[0], w.shape[transB ? 1 : 2]] }];
  },
  grad({ inputs: [x, w], douts: [d], attrs: { transB } }) {
    if (!d) return [null, null];
    return [emit1('groupedMatmul', [d, w], { transB: !transB }), transB ? emit1('groupedOuter', [d, x]) : emit1('groupedOuter', [x, d])];
  },
  lower: { kind: 'matmul', build(call) {
    const { e, inputs: [x, w], attrs: { transB } } = call, rows = x.type.shape[0];
    const row = (z: Parameters<typeof e.add>[0], i: typeof z): typeof z => e.add(e.op('cast', [call.offset(rows, z)], 'index'), i);
    return {
      groups: boundOf(w.type.shape[0]), m: call.size(rows), n: boundOf(w.type.shape[transB ? 1 : 2]), depth: boundOf(x.type.shape[1]),
      a: (z, i, k) => x.at([row(z, i), k]), b: (z, k, j) => w.at(transB ? [z, j, k] : [z, k, j]), index: (z, i, j) => [row(z, i), j],
    };
  } },
  reference(call) {
    const { inputs: [x, w], inTypes: [t, wt], outTypes: [o], attrs: { transB } } = call, off = call.offsets(t);
    const K = boundOf(t.shape[1]), N = boundOf(o.shape[1]), out = new Float64Array(elements(o.shape)).fill(NaN);
    for (let e = 0; e < boundOf(wt.shape[0]); e++) for (let r = off[e]; r < off[e + 1]; r++) for (let j = 0; j < N; j++) {
      let s = 0;
      for (let k = 0; k < K; k++) s += x[r * K + k] * w[e * K * N + (transB ? j * K + k : k * N + j)];
      out[r * N + j] = s;
    }
    return [out];
  },
};
export const groupedMatmul = (x: Tensor, w: Tensor, { transB = false } = {}): Tensor => emit1('groupedMatmul', [x, w], { transB });
