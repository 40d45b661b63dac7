// Gradients of attention to its keys and values: dv = sum of p do, dk = sum of ds q, over the query heads that share them and the
// queries ascending. 16 keys to a task, which goes over the queries that see them.
import { elements } from '../../base/shape.ts';
import type { Expr } from '../../kernel/expr.ts';
import type { Op } from '../op.ts';
import { scoreGradients } from './attentionReference.ts';
import { attentionSizes, BLOCK, TileWriter, type AttentionAttrs } from './attentionTile.ts';

export const attentionGradKVOp: Op<AttentionAttrs> = {
  name: 'attentionGradKV', doc: 'gradients to k and v from q, k, v, start, lse, delta = do . o, do',
  infer(inputs) {
    attentionSizes('attentionGradKV', inputs);
    return [inputs[1], inputs[2]];
  },
  lower: { kind: 'loops', build(call) {
    const { e, k: w, inTypes, inputs: [bq, bk, bv, bs, bl, bd, bg], outputs: [outK, outV], attrs: { causal, scale } } = call;
    const { B, T, S, H, KV, D } = attentionSizes('attentionGradKV', inTypes);
    const L = S === 1 ? 1 : 16, tiles = Math.ceil(S / L), t = new TileWriter(call, inTypes[0].dtype, L);
    return { grid: { extent: B * KV * tiles, grain: 1 }, body(g) {
      const b = e.div(g, KV * tiles), head = e.mod(e.div(g, tiles), KV), first = e.scale(e.mod(g, tiles), L);
      const k = t.array(D), v = t.array(D), dk = t.array(D), dv = t.array(D), s = t.array(BLOCK), dp = t.array(BLOCK);
      const key = t.array(1, 'int32'), row = w.array('index', BLOCK), stat = w.array('index', BLOCK);
      const live = w.scalar('index'), begin = w.scalar('index'), start = w.scalar('index'), eights = w.scalar('index'), last = w.scalar('int32');
      const kRow = (i: Expr): Expr => e.linear(0, [[S * KV * D, b], [KV * D, first], [KV * D, i], [D, head]]);
      const range = { eights: eights.get() };
      return [
        start.set(w.loadIndex(bs, e.index(0))), live.set(t.smaller(e.index(L), t.minus(e.index(S), first))),
        // The first query that sees the tile's first key.
        begin.set(causal ? t.downToEight(t.larger(e.index(0), t.minus(first, start.get()))) : e.index(0)),
        t.each((i) => [key.set(i, t.int(e.add(first, i)))]),
        w.loop(L, (i) => [w.loop(D, (d) => {
          const at = e.add(kRow(t.smaller(i, e.linear(-1, [[1, live.get()]]))), d);
          return [k.set(t.place(d, i), w.load(bk, at)), v.set(t.place(d, i), w.load(bv, at))];
        })]),
        dk.fill(0), dv.fill(0),
        w.loop(H / KV, (sharer) => [w.loop(e.div(e.linear(T + BLOCK - 1, [[-1, begin.get()]]), BLOCK), (block) => {
          const from = e.linear(0, [[1, begin.get()], [BLOCK, block]]), h = e.linear(0, [[H / KV, head], [1, sharer]]);
          return [
            eights.set(t.eights(t.smaller(e.index(BLOCK), t.minus(e.index(T), from)))),
            // Queries past the last are the last one again: they see nothing.
            w.loop(e.scale(eights.get(), 8), (j) => {
              const query = t.smaller(e.add(from, j), e.index(T - 1));
              return [row.set(j, e.linear(0, [[T * H * D, b], [H * D, query], [D, h]])), stat.set(j, e.linear(0, [[T * H, b], [H, query], [1, h]]))];
            }),
            s.fill(0), dp.fill(0),
            ...t.product(s, range, D, (j, d) => w.load(bq, e.add(row.at(j), d)), k),
            ...t.product(dp, range, D, (j, d) => w.load(bg, e.add(row.at(j), d)), v),
            w.loop(e.scale(eights.get(), 8), (j) => {
              const query = e.add(from, j), sees = causal ? e.add(start.get(), query) : e.index(S - 1);
              const lse = w.load(bl, stat.at(j)), delta = w.load(bd, stat.at(j));
              return [
                last.set(t.int(e.op('select', [t.less(query, e.index(T)), sees, e.index(-1)], 'index'))),
                t.each((i) => {
                  const at = t.place(j, i), seen = e.op('le', [key.at(i), last.get()], 'bool');
                  return [s.set(at, t.expWhere(seen, t.sub(t.mul(s.at(at), t.value(scale)), lse)))];
                }),
                t.each((i) => [dp.set(t.place(j, i), t.mul(t.mul(s.at(t.place(j, i)), t.sub(dp.at(t.place(j, i)), delta)), t.value(scale)))])];
            }),
            ...t.product(dv, D, range, (d, j) => w.load(bg, e.add(row.at(j), d)), s),
            ...t.product(dk, D, range, (d, j) => w.load(bq, e.add(row.at(j), d)), dp)];
        })]),
        w.loop(live.get(), (i) => [w.loop(D, (d) => [
          w.store(outK, e.add(kRow(i), d), t.add(dk.at(t.place(d, i)), t.value(0))),
          w.store(outV, e.add(kRow(i), d), t.add(dv.at(t.place(d, i)), t.value(0)))])])];
    } };
  } },
  reference(call) {
    const { inputs: [q, , , , , , dout], inTypes, outTypes: [o] } = call, { D } = attentionSizes('attentionGradKV', inTypes);
    const dk = new Float64Array(elements(o.shape)), dv = dk.slice();
    scoreGradients(call, (query, key, p, ds) => {
      for (let d = 0; d < D; d++) {
        dk[key + d] += ds * q[query + d];
        dv[key + d] += p * dout[query + d];
      }
    });
    return [dk, dv];
  },
};
