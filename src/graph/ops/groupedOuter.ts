// Per expert, x transposed times y.
import type { Op } from '../op.ts';
import { boundOf } from '../../base/shape.ts';
export const groupedOuterOp: Op = {
  name: 'groupedOuter', doc: 'per segment x^T y',
  infer: ([x, y]) => { const d = x.shape[0]; return [{ dtype: x.dtype, shape: [typeof d !== 'number' && d.kind === 'segmented' ? d.segments : 1, x.shape[1], y.shape[1]] }]; },
  lower: { kind: 'matmul', build(call) {
    const { e, inputs: [x, y], outTypes: [o] } = call, rows = x.type.shape[0];
    const row = (z: Parameters<typeof e.add>[0], i: typeof z): typeof z => e.add(e.op('cast', [call.offset(rows, z)], 'index'), i);
    return { groups: boundOf(o.shape[0]), m: boundOf(o.shape[1]), n: boundOf(o.shape[2]), depth: call.size(rows),
      a: (z, i, k) => x.at([row(z, k), i]), b: (z, k, j) => y.at([row(z, k), j]), index: (z, i, j) => [z, i, j] };
  } },
  reference(call) {
    const { inputs: [x, y], inTypes: [t], outTypes: [o] } = call, off = call.offsets(t);
    const [E, M, N] = o.shape.map(boundOf), out = new Float64Array(E * M * N);
    for (let e = 0; e < E; e++) for (let r = off[e]; r < off[e + 1]; r++) for (let i = 0; i < M; i++) for (let j = 0; j < N; j++) out[(e * M + i) * N + j] += x[r * M + i] * y[r * N + j];
    return [out];
  },
};
