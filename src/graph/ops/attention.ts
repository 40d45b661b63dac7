// Attention, never storing the full score matrix. The order of its sums is part of the definition, so that a cached step (one query,
// start = its position) gives the bits of the full pass. Per query, keys in blocks of 64 from key 0 on:
//   s = scale * (q . k), fused multiply-adds over the width ascending;  m' = max(m, s);  p = e^(s - m'), 0 where a key is not seen;
//   a = e^(m - m');  l = l a + sum(p) in 16 lanes as all sums;  o = o a, then o = o + p v key by key, fused;  result o / l.
import { boundOf, elements } from '../../base/shape.ts';
import type { Expr } from '../../kernel/expr.ts';
import type { Op } from '../op.ts';
import { emit, emit1, type Tensor } from '../tensor.ts';
import { attentionSizes, BLOCK, TileWriter, type AttentionAttrs } from './attentionTile.ts';

const ENOUGH = 16; // tasks that keep threads busy

export const attentionOp: Op<AttentionAttrs> = {
  name: 'attention', doc: 'softmax(scale q k^T) v per head, causal: query i sees keys 0..start + i; and log(sum(exp(scores)))',
  infer(inputs) {
    const { B, T, H, D } = attentionSizes('attention', inputs), { dtype } = inputs[0];
    return [{ dtype, shape: [B, T, H, D] }, { dtype, shape: [B, T, H] }];
  },
  // With p = e^(s - lse): ds = p (do . v - delta) with delta = do . o, less the gradient to lse, whose own is p.
  grad({ inputs: [q, k, v, start], outputs: [o, lse], douts: [d, dlse], attrs, needs }) {
    if (!d && !dlse) return [null, null, null, null];
    const zeros = (like: Tensor): Tensor => q.builder.emit('constant', [], { value: 0, dtype: like.dtype, shape: like.shape.map(boundOf) })[0];
    const dout = d ?? zeros(o), dot = emit1('sum', [emit1('mul', [dout, o])], { axes: [3] });
    const inputs = [q, k, v, start, lse, dlse ? emit1('sub', [dot, dlse]) : dot, dout];
    // Many heads and batch entries: the scores are computed once for all three. Few: by more tasks. The same bits.
    const { B, KV } = attentionSizes('attention', [q, k, v, start].map((x) => x.type));
    if (needs[0] && needs[1] && B * KV >= ENOUGH) return [...emit('attentionGrad', inputs, attrs), null];
    const [dk, dv] = needs[1] || needs[2] ? emit('attentionGradKV', inputs, attrs) : [null, null];
    return [needs[0] ? emit1('attentionGradQ', inputs, attrs) : null, dk, dv, null];
  },
  lower: { kind: 'loops', build(call) {
    const { e, k: w, inTypes, inputs: [bq, bk, bv, bs], outputs: [bo, bl], attrs: { causal, scale } } = call;
    const { B, T, S, H, KV, D } = attentionSizes('attention', inTypes);
    const L = T === 1 ? 1 : 16, tiles = Math.ceil(T / L), t = new TileWriter(call, inTypes[0].dtype, L);
    return { grid: { extent: B * H * tiles, grain: 1 }, body(g) {
      const b = e.div(g, H * tiles), h = e.mod(e.div(g, tiles), H), first = e.scale(e.mod(g, tiles), L);
      const q = t.array(D), s = t.array(BLOCK), o = t.array(D), parts = t.array(16);
      const [m, next, a, l] = [t.row(), t.row(), t.row(), t.row()], limit = t.row('int32'), row = w.array('index', BLOCK);
      const live = w.scalar('index'), keys = w.scalar('index'), start = w.scalar('index'), eights = w.scalar('index');
      const qRow = (i: Expr): Expr => e.linear(0, [[T * H * D, b], [H * D, first], [H * D, i], [D, h]]);
      const range = { eights: eights.get() }, minusInfinity = t.value(-Infinity);
      return [
        start.set(w.loadIndex(bs, e.index(0))), live.set(t.smaller(e.index(L), t.minus(e.index(T), first))),
        // The keys that this tile sees, and each of its queries.
        keys.set(causal ? t.smaller(e.index(S), e.add(start.get(), first, live.get())) : e.index(S)),
        t.each((i) => [limit.set(i, t.int(causal ? t.smaller(e.index(S), e.linear(1, [[1, start.get()], [1, first], [1, i]])) : e.index(S)))]),
        w.loop(L, (i) => [w.loop(D, (d) => [q.set(d, i, w.load(bq, e.add(qRow(t.smaller(i, e.linear(-1, [[1, live.get()]]))), d)))])]),
        o.fill(0), l.fill(0), m.fill(-Infinity),
        w.loop(e.div(e.add(keys.get(), e.index(BLOCK - 1)), BLOCK), (block) => {
          const from = e.scale(block, BLOCK);
          return [
            eights.set(t.eights(t.smaller(e.index(BLOCK), t.minus(keys.get(), from)))),
            // Keys past the last are the last one again: they are not seen.
            w.loop(e.scale(eights.get(), 8), (j) => [row.set(j, e.linear(0, [[S * KV * D, b], [KV * D, t.smaller(e.add(from, j), e.linear(-1, [[1, keys.get()]]))], [D, e.div(h, H / KV)]]))]),
            s.fill(0),
            ...t.product(s, range, D, (j, d) => w.load(bk, e.add(row.at(j), d)), q),
            t.each((i) => [next.set(i, m.at(i))]),
            w.loop(e.scale(eights.get(), 8), (j) => [
              t.each((i) => [s.set(j, i, t.select(t.less(t.int(e.add(from, j)), limit.at(i)), t.mul(s.at(j, i), t.value(scale)), minusInfinity))]),
              t.each((i) => [next.set(i, t.max(next.at(i), s.at(j, i)))])]),
            t.each((i) => [a.set(i, t.exp(t.sub(m.at(i), next.at(i)))), m.set(i, next.at(i))]),
            w.loop(e.scale(eights.get(), 8), (j) => [t.each((i) => {
              const x = s.at(j, i);
              return [s.set(j, i, t.expWhere(t.less(minusInfinity, x), t.sub(x, m.at(i))))];
            })]),
            parts.fill(0),
            w.loop(BLOCK / 16, (u) => [w.loop(16, (r) => [t.each((i) => [parts.set(r, i, t.add(parts.at(r, i), s.at(e.linear(0, [[16, u], [1, r]]), i)))])])]),
            ...[8, 4, 2, 1].map((n) => w.loop(n, (r) => [t.each((i) => [parts.set(r, i, t.add(parts.at(r, i), parts.at(e.linear(n, [[1, r]]), i)))])])),
            t.each((i) => [l.set(i, t.fma(l.at(i), a.at(i), parts.at(0, i)))]),
            w.loop(D, (d) => [t.each((i) => [o.set(d, i, t.mul(o.at(d, i), a.at(i)))])]),
            ...t.product(o, D, range, (d, j) => w.load(bv, e.add(row.at(j), d)), s)];
        }),
        // + 0: a sum of nothing but -0 is +0, whatever keys that are not seen it went over.
        w.loop(D, (d) => [t.each((i) => [o.set(d, i, t.add(t.div(o.at(d, i), l.at(i)), t.value(0)))])]),
        t.each((i) => [l.set(i, t.add(m.at(i), t.log(l.at(i))))]),
        w.loop(live.get(), (i) => [
          w.loop(D, (d) => [w.store(bo, e.add(qRow(i), d), o.at(d, i))]),
          w.store(bl, e.linear(0, [[T * H, b], [H, first], [H, i], [1, h]]), l.at(i))])];
    } };
  } },
  reference({ inputs: [q, k, v, [start]], inTypes, outTypes: [to, tl], attrs: { causal, scale } }) {
    const { B, T, S, H, KV, D } = attentionSizes('attention', inTypes), o = new Float64Array(elements(to.shape)), lse = new Float64Array(elements(tl.shape));
    for (let b = 0; b < B; b++) for (let i = 0; i < T; i++) for (let h = 0; h < H; h++) {
      const query = ((b * T + i) * H + h) * D, key = (j: number): number => ((b * S + j) * KV + Math.floor(h / (H / KV))) * D;
      const scores = Array.from({ length: causal ? Math.max(0, Math.min(S, start + i + 1)) : S }, (_, j) => {
        let dot = 0;
        for (let d = 0; d < D; d++) dot += q[query + d] * k[key(j) + d];
        return dot * scale;
      });
      const max = scores.reduce((x, y) => Math.max(x, y), -Infinity), p = scores.map((x) => Math.exp(x - max)), sum = p.reduce((x, y) => x + y, 0);
      lse[(b * T + i) * H + h] = max + Math.log(sum);
      for (let d = 0; d < D; d++) o[query + d] = p.reduce((x, y, j) => x + y * v[key(j) + d], 0) / sum;
    }
    return [o, lse];
  },
};

/** q [B, T, H, D], k and v [B, S, Hkv, D], start int32 [] (position of the first query) -> [B, T, H, D]; scale is 1 / sqrt(D) by default. */
export function attention(q: Tensor, k: Tensor, v: Tensor, start: Tensor, { causal, scale = 1 / Math.sqrt(boundOf(q.shape[3])) }: { causal: boolean; scale?: number }): Tensor {
  return emit('attention', [q, k, v, start], { causal, scale })[0];
}
