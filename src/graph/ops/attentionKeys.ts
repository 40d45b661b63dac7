// Gradients of attention from the side of its keys: a tile of 16 keys goes over the queries that see them, in blocks of 64. The
// gradients to its keys and values are its own; that to the queries it adds to what the tiles before it have added.
import type { Expr } from '../../kernel/expr.ts';
import type { Stmt } from '../../kernel/kernel.ts';
import type { LoopCall } from '../op.ts';
import { Masks } from './attentionMask.ts';
import { BLOCK, TileWriter, type AttentionAttrs, type Sizes } from './attentionTile.ts';

const LANES = 16;
/** Inputs of the gradients before the masks. */
export const GRADIENT_INPUTS = 7;
const lanesOf = (S: number): number => (S === 1 ? 1 : LANES);

export const keyTiles = ({ S }: Sizes): number => Math.ceil(S / lanesOf(S));

/** Buffers of the results. Where dq is to be made too, the tiles of a head run one after the other. */
export interface KeyGradients { readonly dk: number; readonly dv: number; readonly dq?: number }

/** Tile `tile` of the keys of `pair` (batch entry times heads of keys, plus the head). */
export function keyTile(call: LoopCall<AttentionAttrs>, sizes: Sizes, pair: Expr, tile: Expr, { dk: outK, dv: outV, dq: outQ }: KeyGradients): Stmt[] {
  const { e, k: w, inTypes, inputs: [bq, bk, bv, bs, bl, bd, bg], attrs: { causal, scale } } = call, { T, S, H, KV, D } = sizes;
  const L = lanesOf(S), t = new TileWriter(call, inTypes[0].dtype, L), b = e.div(pair, KV), head = e.mod(pair, KV), first = e.scale(tile, L);
  const k = t.array(D), v = t.array(D), dk = t.array(D), dv = t.array(D), s = t.array(BLOCK), dp = t.array(BLOCK);
  const key = t.row('int32'), row = w.array('index', BLOCK), stat = w.array('index', BLOCK);
  const masks = new Masks(call, t, GRADIENT_INPUTS, b, S);
  const live = w.scalar('index'), begin = w.scalar('index'), start = w.scalar('index'), eights = w.scalar('index'), last = w.scalar('int32');
  const dq = outQ === undefined ? null : { out: outQ, ...t.array(BLOCK, t.dtype, D) };
  const kRow = (i: Expr): Expr => e.linear(0, [[S * KV * D, b], [KV * D, first], [KV * D, i], [D, head]]);
  const inside = (i: Expr): Expr => t.smaller(i, e.linear(-1, [[1, live.get()]]));
  const range = { eights: eights.get() };
  // The first query that sees the tile's first key; the first tile goes over all, to make the rows of dq.
  const seenFrom = t.downToEight(t.larger(e.index(0), t.minus(first, start.get())));
  const isFirst = e.op('eq', [tile, e.index(0)], 'bool');

  const scores = (from: Expr, h: Expr): Stmt[] => [
    s.fill(0), dp.fill(0),
    ...t.product(s, range, D, (j, d) => w.load(bq, e.add(row.at(j), d)), k),
    ...t.product(dp, range, D, (j, d) => w.load(bg, e.add(row.at(j), d)), v),
    w.loop(e.scale(eights.get(), 8), (j) => {
      const query = e.add(from, j), sees = causal ? e.add(start.get(), query) : e.linear(-1, [[1, masks.keys]]);
      const lse = w.load(bl, stat.at(j)), delta = w.load(bd, stat.at(j));
      return [
        last.set(t.int(e.op('select', [t.less(query, e.index(T)), t.smaller(sees, e.linear(-1, [[1, masks.keys]])), e.index(-1)], 'index'))),
        t.each((i) => {
          const { seen, value } = masks.score(s.at(j, i), e.op('le', [key.at(i), last.get()], 'bool'), [b, h, t.smaller(query, e.index(T - 1)), e.add(first, inside(i))]);
          return [s.set(j, i, t.expWhere(seen, t.sub(value, lse)))];
        }),
        t.each((i) => [dp.set(j, i, t.mul(t.mul(s.at(j, i), t.sub(dp.at(j, i), delta)), t.value(scale)))])];
    })];

  /** dq of the block's queries: from memory, on by this tile's keys, and back. */
  const queries = (count: Expr): Stmt[] => (dq ? [
    w.loop(count, (j) => [w.vector(D, (d) => [dq.set(j, d, t.select(isFirst, t.value(0), w.load(dq.out, e.add(row.at(j), d))))])]),
    ...Array.from({ length: Math.ceil(D / LANES) }, (_, c) => {
      const column = (i: Expr): Expr => e.linear(c * LANES, [[1, i]]);
      return t.product({ at: (j, i) => dq.at(j, column(i)), set: (j, i, x) => dq.set(j, column(i), x) }, range, L, (j, i) => dp.at(j, i),
        { at: (i, d) => w.load(bk, e.add(kRow(inside(typeof i === 'number' ? e.index(i) : i)), column(d))) }, Math.min(LANES, D - c * LANES));
    }).flat(),
    w.loop(count, (j) => [w.vector(D, (d) => [w.store(dq.out, e.add(row.at(j), d), t.add(dq.at(j, d), t.value(0)))])]),
  ] : []);

  return [
    ...masks.setup, start.set(w.loadIndex(bs, e.index(0))), live.set(t.smaller(e.index(L), t.minus(e.index(S), first))),
    begin.set(!causal ? e.index(0) : dq ? e.op('select', [isFirst, e.index(0), seenFrom], 'index') : seenFrom),
    t.each((i) => [key.set(i, t.int(e.add(first, i)))]),
    w.loop(L, (i) => [w.loop(D, (d) => {
      const at = e.add(kRow(inside(i)), d);
      return [k.set(d, i, w.load(bk, at)), v.set(d, i, w.load(bv, at))];
    })]),
    dk.fill(0), dv.fill(0),
    w.loop(H / KV, (sharer) => [w.loop(e.div(e.linear(T + BLOCK - 1, [[-1, begin.get()]]), BLOCK), (block) => {
      const from = e.linear(0, [[1, begin.get()], [BLOCK, block]]), h = e.linear(0, [[H / KV, head], [1, sharer]]);
      const count = t.smaller(e.index(BLOCK), t.minus(e.index(T), from));
      return [
        eights.set(t.eights(count)),
        // Queries past the last are the last one again: they see nothing.
        w.loop(e.scale(eights.get(), 8), (j) => {
          const query = t.smaller(e.add(from, j), e.index(T - 1));
          return [row.set(j, e.linear(0, [[T * H * D, b], [H * D, query], [D, h]])), stat.set(j, e.linear(0, [[T * H, b], [H, query], [1, h]]))];
        }),
        ...scores(from, h),
        ...t.product(dv, D, range, (d, j) => w.load(bg, e.add(row.at(j), d)), s),
        ...t.product(dk, D, range, (d, j) => w.load(bq, e.add(row.at(j), d)), dp),
        ...queries(count)];
    })]),
    w.loop(live.get(), (i) => [w.loop(D, (d) => [
      w.store(outK, e.add(kRow(i), d), t.add(dk.at(d, i), t.value(0))), w.store(outV, e.add(kRow(i), d), t.add(dv.at(d, i), t.value(0)))])])];
}
