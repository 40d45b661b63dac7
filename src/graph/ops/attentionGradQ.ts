// Gradient of attention to its queries: dq = sum over keys ascending of ds k, with p = e^(s - lse) computed again and
// ds = scale p (do . v - delta). 16 queries to a task.
import { elements } from '../../base/shape.ts';
import type { Expr } from '../../kernel/expr.ts';
import type { Op } from '../op.ts';
import { scoreGradients } from './attentionReference.ts';
import { GRADIENT_INPUTS } from './attentionKeys.ts';
import { checkMasks, Masks } from './attentionMask.ts';
import { attentionSizes, BLOCK, TileWriter, ATTENTION_ONCE, type AttentionAttrs } from './attentionTile.ts';

export const attentionGradQOp: Op<AttentionAttrs> = {
  // Gradient to q from q, k, v, start, lse, delta = do . o, do.
  name: 'attentionGradQ',
  infer(inputs, attrs) {
    checkMasks('attentionGradQ', inputs, GRADIENT_INPUTS, attrs, attentionSizes('attentionGradQ', inputs));
    return [inputs[0]];
  },
  noGrad: ATTENTION_ONCE,
  lower: { kind: 'loops', build(call) {
    const { e, k: w, inTypes, inputs: [bq, bk, bv, bs, bl, bd, bg], outputs: [out], attrs: { causal, scale } } = call;
    const { B, T, S, H, KV, D } = attentionSizes('attentionGradQ', inTypes);
    const L = T === 1 ? 1 : 16, tiles = Math.ceil(T / L), t = new TileWriter(call, inTypes[0].dtype, L);
    return { grid: { extent: B * H * tiles, grain: 1 }, body(g) {
      const b = e.div(g, H * tiles), h = e.mod(e.div(g, tiles), H), first = e.scale(e.mod(g, tiles), L);
      const q = t.array(D), dout = t.array(D), s = t.array(BLOCK), dp = t.array(BLOCK), dq = t.array(D);
      const lse = t.row(), delta = t.row(), limit = t.row('int32'), row = w.array('index', BLOCK);
      const live = w.scalar('index'), keys = w.scalar('index'), start = w.scalar('index'), eights = w.scalar('index');
      const qRow = (i: Expr): Expr => e.linear(0, [[T * H * D, b], [H * D, first], [H * D, i], [D, h]]);
      const stat = (i: Expr): Expr => e.linear(0, [[T * H, b], [H, first], [H, i], [1, h]]);
      const inside = (i: Expr): Expr => t.smaller(i, e.linear(-1, [[1, live.get()]]));
      const range = { eights: eights.get() };
      const masks = new Masks(call, t, GRADIENT_INPUTS, b, S), lastKey = (j: Expr): Expr => t.smaller(j, e.linear(-1, [[1, keys.get()]]));
      return [
        ...masks.setup, start.set(w.loadIndex(bs, e.index(0))), live.set(t.smaller(e.index(L), t.minus(e.index(T), first))),
        keys.set(causal ? t.smaller(masks.keys, e.add(start.get(), first, live.get())) : masks.keys),
        t.each((i) => [limit.set(i, t.int(causal ? t.smaller(masks.keys, e.linear(1, [[1, start.get()], [1, first], [1, i]])) : masks.keys))]),
        w.loop(L, (i) => [lse.set(i, w.load(bl, stat(inside(i)))), delta.set(i, w.load(bd, stat(inside(i)))), w.loop(D, (d) => [
          q.set(d, i, w.load(bq, e.add(qRow(inside(i)), d))), dout.set(d, i, w.load(bg, e.add(qRow(inside(i)), d)))])]),
        dq.fill(0),
        w.loop(e.div(e.add(keys.get(), e.index(BLOCK - 1)), BLOCK), (block) => {
          const from = e.scale(block, BLOCK);
          return [
            eights.set(t.eights(t.smaller(e.index(BLOCK), t.minus(keys.get(), from)))),
            w.loop(e.scale(eights.get(), 8), (j) => [row.set(j, e.linear(0, [[S * KV * D, b], [KV * D, lastKey(e.add(from, j))], [D, e.div(h, H / KV)]]))]),
            s.fill(0), dp.fill(0),
            ...t.product(s, range, D, (j, d) => w.load(bk, e.add(row.at(j), d)), q),
            ...t.product(dp, range, D, (j, d) => w.load(bv, e.add(row.at(j), d)), dout),
            w.loop(e.scale(eights.get(), 8), (j) => [t.each((i) => {
              const { seen, value } = masks.score(s.at(j, i), t.less(t.int(e.add(from, j)), limit.at(i)), [b, h, e.add(first, inside(i)), lastKey(e.add(from, j))]);
              const p = t.expWhere(seen, t.sub(value, lse.at(i)));
              return [s.set(j, i, t.mul(t.mul(p, t.sub(dp.at(j, i), delta.at(i))), t.value(scale)))];
            })]),
            ...t.product(dq, D, range, (d, j) => w.load(bk, e.add(row.at(j), d)), s)];
        }),
        w.loop(live.get(), (i) => [w.loop(D, (d) => [w.store(out, e.add(qRow(i), d), t.add(dq.at(d, i), t.value(0)))])])];
    } };
  } },
  reference(call) {
    const { inputs: [, k], inTypes, outTypes: [o] } = call, { D } = attentionSizes('attentionGradQ', inTypes), dq = new Float64Array(elements(o.shape));
    scoreGradients(call, (query, key, _, ds) => { for (let d = 0; d < D; d++) dq[query + d] += ds * k[key + d]; });
    return [dq];
  },
};
