// Sums rows into a table.
import type { Op } from '../op.ts';
import { elements } from '../../base/shape.ts';
export type ScatterAttrs = { readonly rows: number };
export const scatterAddOp: Op<ScatterAttrs> = {
  name: 'scatterAdd', doc: 'zeros with x[i] added to row index[i]',
  infer: ([x, i], { rows }) => [{ dtype: x.dtype, shape: [rows, ...x.shape.slice(i.shape.length)] }],
  lower: { kind: 'loops', build({ e, k, inTypes: [x, i], inputs: [bx, bi], outputs: [out], attrs: { rows } }) {
    const n = elements(i.shape), w = elements(x.shape.slice(i.shape.length)), block = 32;
    return { grid: { extent: Math.ceil(w / block), grain: 1 }, body: (g) => {
      const start = e.scale(g, block), live = e.op('min', [e.index(block), e.linear(w, [[-1, start]])], 'index');
      const at = (row: typeof g, l: typeof g): typeof g => e.linear(0, [[w, row], [1, start], [1, l]]);
      return [
        k.loop(rows, (r) => [k.vector(live, (l) => [k.store(out, at(r, l), e.const(0, x.dtype))])]),
        k.loop(n, (t) => { const row = k.scalar('index'); return [row.set(k.loadIndex(bi, t)), k.vector(live, (l) =>
          [k.store(out, at(row.get(), l), e.op('add', [k.load(out, at(row.get(), l)), k.load(bx, at(t, l))], x.dtype))])]; }),
      ];
    } };
  } },
  reference({ inputs: [x, i], outTypes: [o] }) {
    const out = new Float64Array(elements(o.shape)), w = elements(o.shape.slice(1));
    i.forEach((r, t) => { for (let c = 0; c < w; c++) out[r * w + c] += x[t * w + c]; });
    return [out];
  },
};
