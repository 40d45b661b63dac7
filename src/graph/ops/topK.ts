// The k largest of each row. NaN counts as -infinity, so that the indices are always k different ones, whatever the row holds; the
// value is NaN still, and stops a training run.
import type { Op } from '../op.ts';
import { boundOf, elements } from '../../base/shape.ts';
import { emit, emit1, type Tensor } from '../tensor.ts';
export type TopKAttrs = { readonly k: number };
export const topKOp: Op<TopKAttrs> = {
  name: 'topK', doc: 'k largest of each row and their indices',
  infer: ([x], { k }) => [{ dtype: x.dtype, shape: [x.shape[0], k] }, { dtype: 'int32', shape: [x.shape[0], k] }],
  grad: ({ inputs: [x], outputs: [, idx], douts: [d] }) => {
    if (!d) return [null];
    const E = boundOf(x.shape[1]), hot = emit1('oneHot', [idx], { classes: E });
    return [emit1('sum', [emit1('mul', [hot, emit1('expand', [d, hot], { axes: [2] })])], { axes: [1] })];
  },
  lower: { kind: 'loops', build({ e, k: w, inTypes: [x], inputs: [bx], outputs: [bv, bi], attrs: { k } }) {
    const E = boundOf(x.shape[1]), rows = w.extent(x, 0);
    return { grid: { extent: rows, grain: Math.max(1, Math.floor(2048 / E / k)) }, body: (r) => {
      const pv = w.scalar('float32'), pi = w.scalar('index'), best = w.scalar('float32'), bidx = w.scalar('index');
      return [pv.set(e.const(Infinity, 'float32')), pi.set(e.index(-1)), w.loop(k, (j) => [
        best.set(e.const(-Infinity, 'float32')), bidx.set(e.index(-1)),
        w.loop(E, (c) => {
          const x = w.load(bx, e.linear(0, [[E, r], [1, c]])), least = e.const(-Infinity, 'float32');
          const v = e.op('select', [e.op('le', [least, x], 'bool'), x, least], 'float32');
          const and = (a: typeof v, b: typeof v): typeof v => e.op('and', [a, b], 'bool'), or = (a: typeof v, b: typeof v): typeof v => e.op('or', [a, b], 'bool');
          const left = or(e.op('lt', [v, pv.get()], 'bool'), and(e.op('eq', [v, pv.get()], 'bool'), e.op('lt', [pi.get(), c], 'bool')));
          return [w.when(and(left, or(e.op('lt', [best.get(), v], 'bool'), e.op('lt', [bidx.get(), e.index(0)], 'bool'))), [best.set(v), bidx.set(c)])];
        }),
        w.store(bv, e.linear(0, [[k, r], [1, j]]), w.load(bx, e.linear(0, [[E, r], [1, bidx.get()]]))), w.store(bi, e.linear(0, [[k, r], [1, j]]), e.op('cast', [bidx.get()], 'int32')),
        pv.set(best.get()), pi.set(bidx.get())])];
    } };
  } },
  reference({ inputs: [x], inTypes: [t], outTypes: [o], attrs: { k }, rows }) {
    const E = boundOf(t.shape[1]), v = new Float64Array(elements(o.shape)), ix = new Float64Array(elements(o.shape));
    for (let r = 0; r < rows(t); r++) {
      const order = Array.from({ length: E }, (_, c) => c).sort((a, b) => rank(x[r * E + b]) - rank(x[r * E + a]) || a - b);
      for (let j = 0; j < k; j++) { v[r * k + j] = x[r * E + order[j]]; ix[r * k + j] = order[j]; }
    }
    return [v, ix];
  },
};
const rank = (v: number): number => (Number.isNaN(v) ? -Infinity : v);

export function topK(x: Tensor, k: number): { values: Tensor; indices: Tensor } { const [values, indices] = emit('topK', [x], { k }); return { values, indices }; }
