// Attention, never storing the full score matrix. Keys come in blocks of 64 from key 0 on; that order is part of the definition.
import type { Op } from '../op.ts';
import { boundOf, elements } from '../../base/shape.ts';
import { emit, emit1, type Tensor } from '../tensor.ts';
import type { Expr } from '../../kernel/expr.ts';
export type AttentionAttrs = { readonly causal: boolean; readonly scale: number };
const KEYS = 64, TILE = 16;
export const attentionOp: Op<AttentionAttrs> = {
  name: 'attention', doc: 'softmax(q k^T scale) v per head; and log sum exp of the scores',
  infer: ([q]) => [q, { dtype: q.dtype, shape: q.shape.slice(0, 3) }],
  grad({ inputs: [q, k, v, start], outputs: [o, lse], douts: [d], attrs }) {
    if (!d) return [null, null, null, null];
    const delta = emit1('sum', [emit1('mul', [d, o])], { axes: [3] });
    const ins = [q, k, v, start, lse, delta, d];
    const [dk, dv] = emit('attentionGradKV', ins, attrs);
    return [emit1('attentionGradQ', ins, attrs), dk, dv, null];
  },
  lower: { kind: 'loops', build({ e, k: w, inTypes: [tq, tk], inputs: [bq, bk, bv, bs], outputs: [bo, bl], attrs: { causal, scale } }) {
    const [B, T, H, D] = tq.shape.map(boundOf), S = boundOf(tk.shape[1]), tiles = Math.ceil(T / TILE), blocks = Math.ceil(S / KEYS);
    const f = (v: number): Expr => e.const(v, 'float32'), op = (o: 'mul' | 'sub' | 'add' | 'div', a: Expr, b: Expr): Expr => e.op(o, [a, b], 'float32');
    return { grid: { extent: B * H * tiles, grain: 1 }, body: (g) => {
      const b = e.div(g, H * tiles), h = e.mod(e.div(g, tiles), H), q0 = e.scale(e.mod(g, tiles), TILE);
      const kt = w.array('float32', D * KEYS), s = w.array('float32', KEYS), o = w.array('float32', TILE * D), m = w.array('float32', TILE), l = w.array('float32', TILE);
      const old = w.scalar('float32'), alpha = w.scalar('float32'), pos = w.scalar('index'), count = w.scalar('index');
      const at = (t: Expr, d: Expr, n: number): Expr => e.linear(0, [[n * H * D, b], [H * D, t], [D, h], [1, d]]);
      const start = w.loadIndex(bs, e.index(0));
      const live = e.op('min', [e.index(TILE), e.linear(T, [[-1, q0]])], 'index');
      return [o.fill(0), l.fill(0), w.loop(TILE, (i) => [m.set(i, f(-Infinity))]), w.loop(blocks, (blk) => [
        w.when(causal ? e.op('le', [e.scale(blk, KEYS), e.linear(TILE - 1, [[1, start], [1, q0]])], 'bool') : e.const(1, 'bool'), [
          kt.fill(0),
          w.loop(e.op('min', [e.index(KEYS), e.linear(S, [[-KEYS, blk]])], 'index'), (j) => [w.loop(D, (d) => [kt.set(e.linear(0, [[KEYS, d], [1, j]]), w.load(bk, at(e.linear(0, [[KEYS, blk], [1, j]]), d, S)))])]),
          w.loop(live, (i) => [
            pos.set(causal ? e.add(start, q0, i) : e.index(S - 1)),
            count.set(e.op('min', [e.index(KEYS), e.linear(1, [[1, pos.get()], [-KEYS, blk]])], 'index')),
            w.when(e.op('lt', [e.index(0), count.get()], 'bool'), (() => {
              const mx = w.reduce('max', count.get(), (j) => s.at(j)), sum = w.reduce('sum', count.get(), (j) => s.at(j));
              return [s.fill(0),
                w.loop(D, (d) => [w.vector(KEYS, (j) => [s.set(j, e.op('fma', [w.load(bq, at(e.add(q0, i), d, T)), kt.at(e.linear(0, [[KEYS, d], [1, j]])), s.at(j)], 'float32'))])]),
                w.vector(KEYS, (j) => [s.set(j, op('mul', s.at(j), f(scale)))]),
                mx.stmt, old.set(m.at(i)), m.set(i, e.op('max', [mx.get(), old.get()], 'float32')),
                w.vector(KEYS, (j) => [s.set(j, e.op('exp', [op('sub', s.at(j), m.at(i))], 'float32'))]),
                alpha.set(e.op('exp', [op('sub', old.get(), m.at(i))], 'float32')),
                sum.stmt, l.set(i, op('add', op('mul', l.at(i), alpha.get()), sum.get())),
                w.vector(D, (d) => [o.set(e.linear(0, [[D, i], [1, d]]), op('mul', o.at(e.linear(0, [[D, i], [1, d]])), alpha.get()))]),
                w.loop(count.get(), (j) => [w.vector(D, (d) => [o.set(e.linear(0, [[D, i], [1, d]]),
                  e.op('fma', [s.at(j), w.load(bv, at(e.linear(0, [[KEYS, blk], [1, j]]), d, S)), o.at(e.linear(0, [[D, i], [1, d]]))], 'float32'))])])];
            })())])])]),
        w.loop(live, (i) => [
          w.vector(D, (d) => [w.store(bo, at(e.add(q0, i), d, T), op('div', o.at(e.linear(0, [[D, i], [1, d]])), l.at(i)))]),
          w.store(bl, e.linear(0, [[T * H, b], [H, q0], [H, i], [1, h]]), op('add', m.at(i), e.op('log', [l.at(i)], 'float32')))])];
    } };
  } },
  reference({ inputs: [q, k, v, [start]], inTypes: [tq, tk], outTypes: [o, ol], attrs: { causal, scale } }) {
    const [B, T, H, D] = tq.shape.map(boundOf), S = boundOf(tk.shape[1]), out = new Float64Array(elements(o.shape)), lse = new Float64Array(elements(ol.shape));
    for (let b = 0; b < B; b++) for (let t = 0; t < T; t++) for (let h = 0; h < H; h++) {
      const n = causal ? start + t + 1 : S, qi = ((b * T + t) * H + h) * D, sc = Array.from({ length: n }, (_, j) => { let s = 0; for (let d = 0; d < D; d++) s += q[qi + d] * k[((b * S + j) * H + h) * D + d]; return s * scale; });
      const m = Math.max(...sc), sum = sc.reduce((a, x) => a + Math.exp(x - m), 0);
      lse[(b * T + t) * H + h] = m + Math.log(sum);
      sc.forEach((x, j) => { for (let d = 0; d < D; d++) out[qi + d] += Math.exp(x - m) / sum * v[((b * S + j) * H + h) * D + d]; });
    }
    return [out, lse];
  },
};
export function attention(q: Tensor, k: Tensor, v: Tensor, start: Tensor, { causal, scale = 1 / Math.sqrt(boundOf(q.shape[3])) }: { causal: boolean; scale?: number }): Tensor {
  return emit('attention', [q, k, v, start], { causal, scale })[0];
}
