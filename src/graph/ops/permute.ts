// Sorts choices by expert.
import type { Op } from '../op.ts';
import { elements } from '../../base/shape.ts';
import { emit, type Tensor } from '../tensor.ts';
export type PermuteAttrs = { readonly experts: number };
export const permuteOp: Op<PermuteAttrs> = {
  name: 'permute', doc: 'offsets, order, inverse, expert',
  infer([x], { experts }) { const n = elements(x.shape); return [{ dtype: 'int32', shape: [experts + 1] }, ...[0, 1, 2].map(() => ({ dtype: 'int32' as const, shape: [n] }))]; },
  lower: { kind: 'loops', build({ e, k: w, inTypes: [x], inputs: [b], outputs: [off, order, inv, ex], attrs: { experts: E } }) {
    const n = elements(x.shape), i32 = (v: Parameters<typeof e.add>[0]): typeof v => e.op('cast', [v], 'int32');
    return { grid: { extent: 1, grain: 1 }, body: () => {
      const at = w.array('index', E + 1), s = w.scalar('index'), x1 = w.scalar('index'), p = w.scalar('index');
      return [at.fill(0), w.loop(n, (i) => [x1.set(e.add(w.loadIndex(b, i), e.index(1))), at.set(x1.get(), e.add(at.at(x1.get()), e.index(1)))]),
        s.set(e.index(0)), w.loop(E + 1, (z) => [s.set(e.add(s.get(), at.at(z))), at.set(z, s.get()), w.store(off, z, i32(s.get()))]),
        w.loop(n, (i) => [x1.set(w.loadIndex(b, i)), p.set(at.at(x1.get())), at.set(x1.get(), e.add(p.get(), e.index(1))),
          w.store(order, p.get(), i32(i)), w.store(ex, p.get(), i32(x1.get())), w.store(inv, i, i32(p.get()))])];
    } };
  } },
  reference({ inputs: [x], attrs: { experts: E } }) {
    const off = new Float64Array(E + 1), order = new Float64Array(x.length), inv = new Float64Array(x.length), ex = new Float64Array(x.length);
    x.forEach((c) => { off[c + 1]++; });
    for (let z = 0; z < E; z++) off[z + 1] += off[z];
    const at = off.slice();
    x.forEach((c, i) => { const p = at[c]++; order[p] = i; inv[i] = p; ex[p] = c; });
    return [off, order, inv, ex];
  },
};
export function permute(indices: Tensor, experts: number): { offsets: Tensor; order: Tensor; inverse: Tensor; expert: Tensor } {
  const [offsets, order, inverse, expert] = emit('permute', [indices], { experts });
  return { offsets, order, inverse, expert };
}
