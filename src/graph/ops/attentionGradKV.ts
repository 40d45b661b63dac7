// Gradients of attention to its keys and values.
import type { Op } from '../op.ts';
import { boundOf } from '../../base/shape.ts';
import type { AttentionAttrs } from './attentionTile.ts';
import type { Expr } from '../../kernel/expr.ts';
const QUERIES = 64, TILE = 16;
export const attentionGradKVOp: Op<AttentionAttrs> = {
  name: 'attentionGradKV', doc: 'gradients to k and v',
  infer: ([, k, v]) => [k, v],
  lower: { kind: 'loops', build({ e, k: w, inTypes: [tq, tk], inputs: [bq, bk, bv, bs, bl, bd, bg], outputs: [ok, ov], attrs: { causal, scale } }) {
    const [B, T, H, D] = tq.shape.map(boundOf), S = boundOf(tk.shape[1]), tiles = Math.ceil(S / TILE), blocks = Math.ceil(T / QUERIES);
    const f = (v: number): Expr => e.const(v, 'float32'), op = (o: 'mul' | 'sub' | 'add' | 'div', a: Expr, b: Expr): Expr => e.op(o, [a, b], 'float32');
    return { grid: { extent: B * H * tiles, grain: 1 }, body: (g) => {
      const b = e.div(g, H * tiles), h = e.mod(e.div(g, tiles), H), k0 = e.scale(e.mod(g, tiles), TILE);
      const qt = w.array('float32', D * QUERIES), gt = w.array('float32', D * QUERIES), s = w.array('float32', QUERIES), dp = w.array('float32', QUERIES);
      const dk = w.array('float32', TILE * D), dv = w.array('float32', TILE * D), first = w.scalar('index'), n = w.scalar('index'), start = w.loadIndex(bs, e.index(0));
      const at = (t: Expr, d: Expr, m: number): Expr => e.linear(0, [[m * H * D, b], [H * D, t], [D, h], [1, d]]);
      const live = e.op('min', [e.index(TILE), e.linear(S, [[-1, k0]])], 'index');
      return [dk.fill(0), dv.fill(0), w.loop(blocks, (blk) => [
        n.set(e.op('min', [e.index(QUERIES), e.linear(T, [[-QUERIES, blk]])], 'index')), qt.fill(0), gt.fill(0),
        w.loop(n.get(), (i) => [w.loop(D, (d) => [
          qt.set(e.linear(0, [[QUERIES, d], [1, i]]), w.load(bq, at(e.linear(0, [[QUERIES, blk], [1, i]]), d, T))),
          gt.set(e.linear(0, [[QUERIES, d], [1, i]]), w.load(bg, at(e.linear(0, [[QUERIES, blk], [1, i]]), d, T)))])]),
        w.loop(live, (j) => {
          const key = e.add(k0, j), stat = (i: Expr): Expr => e.linear(0, [[T * H, b], [H * QUERIES, blk], [H, i], [1, h]]);
          return [
            first.set(causal ? e.op('max', [e.index(0), e.linear(0, [[1, key], [-1, start], [-QUERIES, blk]])], 'index') : e.index(0)),
            s.fill(0), dp.fill(0),
            w.loop(D, (d) => [w.vector(QUERIES, (i) => [s.set(i, e.op('fma', [qt.at(e.linear(0, [[QUERIES, d], [1, i]])), w.load(bk, at(key, d, S)), s.at(i)], 'float32'))]),
              w.vector(QUERIES, (i) => [dp.set(i, e.op('fma', [gt.at(e.linear(0, [[QUERIES, d], [1, i]])), w.load(bv, at(key, d, S)), dp.at(i)], 'float32'))])]),
            w.vector(n.get(), (i) => [s.set(i, e.op('exp', [op('sub', op('mul', s.at(i), f(scale)), w.load(bl, stat(i)))], 'float32'))]),
            w.vector(n.get(), (i) => [dp.set(i, op('mul', op('mul', s.at(i), op('sub', dp.at(i), w.load(bd, stat(i)))), f(scale)))]),
            w.loop(e.linear(0, [[1, n.get()], [-1, first.get()]]), (r) => { const i = e.add(first.get(), r), t = e.linear(0, [[QUERIES, blk], [1, i]]); return [
              w.vector(D, (d) => [dv.set(e.linear(0, [[D, j], [1, d]]), e.op('fma', [s.at(i), w.load(bg, at(t, d, T)), dv.at(e.linear(0, [[D, j], [1, d]]))], 'float32'))]),
              w.vector(D, (d) => [dk.set(e.linear(0, [[D, j], [1, d]]), e.op('fma', [dp.at(i), w.load(bq, at(t, d, T)), dk.at(e.linear(0, [[D, j], [1, d]]))], 'float32'))])]; })];
        })]),
        w.loop(live, (j) => [w.vector(D, (d) => [w.store(ok, at(e.add(k0, j), d, S), dk.at(e.linear(0, [[D, j], [1, d]]))), w.store(ov, at(e.add(k0, j), d, S), dv.at(e.linear(0, [[D, j], [1, d]])))])])];
    } };
  } },
  reference() { throw new Error('to come'); },
};
