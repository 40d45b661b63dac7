// Gradient of attention to its queries.
import type { Op } from '../op.ts';
import { boundOf } from '../../base/shape.ts';
import type { AttentionAttrs } from './attentionTile.ts';
import type { Expr } from '../../kernel/expr.ts';
const KEYS = 64, TILE = 16;
export const attentionGradQOp: Op<AttentionAttrs> = {
  name: 'attentionGradQ', doc: 'gradient to q',
  infer: ([q]) => [q],
  lower: { kind: 'loops', build({ e, k: w, inTypes: [tq, tk], inputs: [bq, bk, bv, bs, bl, bd, bg], outputs: [out], attrs: { causal, scale } }) {
    const [B, T, H, D] = tq.shape.map(boundOf), S = boundOf(tk.shape[1]), tiles = Math.ceil(T / TILE), blocks = Math.ceil(S / KEYS);
    const f = (v: number): Expr => e.const(v, 'float32'), op = (o: 'mul' | 'sub' | 'add' | 'div', a: Expr, b: Expr): Expr => e.op(o, [a, b], 'float32');
    return { grid: { extent: B * H * tiles, grain: 1 }, body: (g) => {
      const b = e.div(g, H * tiles), h = e.mod(e.div(g, tiles), H), q0 = e.scale(e.mod(g, tiles), TILE);
      const kt = w.array('float32', D * KEYS), vt = w.array('float32', D * KEYS), s = w.array('float32', KEYS), dp = w.array('float32', KEYS), dq = w.array('float32', TILE * D);
      const count = w.scalar('index'), start = w.loadIndex(bs, e.index(0));
      const at = (t: Expr, d: Expr, n: number): Expr => e.linear(0, [[n * H * D, b], [H * D, t], [D, h], [1, d]]);
      const live = e.op('min', [e.index(TILE), e.linear(T, [[-1, q0]])], 'index');
      return [dq.fill(0), w.loop(blocks, (blk) => [
        w.when(causal ? e.op('le', [e.scale(blk, KEYS), e.linear(TILE - 1, [[1, start], [1, q0]])], 'bool') : e.const(1, 'bool'), [
          kt.fill(0), vt.fill(0),
          w.loop(e.op('min', [e.index(KEYS), e.linear(S, [[-KEYS, blk]])], 'index'), (j) => [w.loop(D, (d) => [
            kt.set(e.linear(0, [[KEYS, d], [1, j]]), w.load(bk, at(e.linear(0, [[KEYS, blk], [1, j]]), d, S))),
            vt.set(e.linear(0, [[KEYS, d], [1, j]]), w.load(bv, at(e.linear(0, [[KEYS, blk], [1, j]]), d, S)))])]),
          w.loop(live, (i) => {
            const row = e.add(q0, i), stat = e.linear(0, [[T * H, b], [H, row], [1, h]]);
            return [count.set(e.op('min', [e.index(KEYS), e.linear(1, [[1, causal ? e.add(start, row) : e.index(S - 1)], [-KEYS, blk]])], 'index')),
              s.fill(0), dp.fill(0),
              w.loop(D, (d) => [w.vector(KEYS, (j) => [s.set(j, e.op('fma', [w.load(bq, at(row, d, T)), kt.at(e.linear(0, [[KEYS, d], [1, j]])), s.at(j)], 'float32'))]),
                w.vector(KEYS, (j) => [dp.set(j, e.op('fma', [w.load(bg, at(row, d, T)), vt.at(e.linear(0, [[KEYS, d], [1, j]])), dp.at(j)], 'float32'))])]),
              w.vector(KEYS, (j) => [s.set(j, op('mul', op('mul', e.op('exp', [op('sub', op('mul', s.at(j), f(scale)), w.load(bl, stat))], 'float32'), op('sub', dp.at(j), w.load(bd, stat))), f(scale)))]),
              w.loop(count.get(), (j) => [w.vector(D, (d) => [dq.set(e.linear(0, [[D, i], [1, d]]),
                e.op('fma', [s.at(j), w.load(bk, at(e.linear(0, [[KEYS, blk], [1, j]]), d, S)), dq.at(e.linear(0, [[D, i], [1, d]]))], 'float32'))])])];
          })])]),
        w.loop(live, (i) => [w.vector(D, (d) => [w.store(out, at(e.add(q0, i), d, T), dq.at(e.linear(0, [[D, i], [1, d]])))])])];
    } };
  } },
  reference() { throw new Error('to come'); },
};
