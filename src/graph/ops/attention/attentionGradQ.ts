// Gradient of attention for its queries: dq = sum over keys ascending of ds k, where p = e^(s - lse) is recomputed and
// ds = scale p (do . v - delta). A task has 16 queries.
import type { Expr } from '../../../kernel/expr.ts';
import type { Op } from '../../op.ts';
import { checkGradientInputs, GRADIENT_INPUTS } from './attentionKeys.ts';
import { Masks } from './attentionMask.ts';
import { attentionSizes, lanesOf, Samples } from './attentionSamples.ts';
import { BLOCK, TileWriter, ATTENTION_ONCE, type AttentionAttrs } from './attentionTile.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    attentionGradQ: AttentionAttrs;
  }
}

export const attentionGradQOp: Op<AttentionAttrs> = {
  // Gradient to q from q, k, v, start, lse, delta = do . o, do.
  name: 'attentionGradQ',
  keepsRows: true,
  takes: ['floats'],
  infer(inputs, attrs, ids) {
    checkGradientInputs('attentionGradQ', inputs, attrs, ids);
    return [inputs[0]];
  },
  noGrad: ATTENTION_ONCE,
  lower: {
    kind: 'loops',
    strided: [0, 1, 2, 6],
    build(call) {
      const {
        e,
        k: w,
        limits,
        inTypes,
        from: [pq, pk, pv, , pl, pd, pg],
        to: [out],
        attrs: { causal, scale },
      } = call;
      const sizes = attentionSizes('attentionGradQ', inTypes),
        { T, H, KV, D } = sizes;
      const L = lanesOf(T, limits),
        tiles = new Samples(call, sizes).tiles(H, T, L),
        t = new TileWriter(call, inTypes[0].dtype, L);
      return {
        grid: { extent: tiles.extent, work: null },
        body(g) {
          const task = tiles.at(g),
            { sample, run } = task,
            b = sample.number,
            { head: h, tile } = task,
            first = e.scale(tile, L),
            own = e.div(h, H / KV),
            none = e.index(0);
          const s = t.array(BLOCK),
            dp = t.array(BLOCK),
            dq = t.wide(L, D);
          const lse = t.row(),
            delta = t.row(),
            limit = t.row('int32');
          const live = w.scalar('index'),
            keys = w.scalar('index'),
            start = w.scalar('index'),
            count = w.scalar('index');
          const inside = (i: Expr): Expr => e.min(i, e.add(live.get(), -1)),
            query = (i: Expr): Expr => e.add(first, i);
          const [q, dout] = [pq, pg].map((p) => t.turn(p, sample.query(first, h, none), live.get(), D));
          const masks = new Masks(call, t, GRADIENT_INPUTS, sample);
          return run([
            ...masks.setup,
            start.set(sample.start),
            live.set(e.min(e.index(L), e.add(sample.queries, [-1, first]))),
            keys.set(causal ? e.min(masks.keys, e.add(start.get(), first, live.get())) : masks.keys),
            t.each((i) => [
              limit.set(i, t.int(causal ? e.min(masks.keys, e.add(start.get(), first, i, 1)) : masks.keys)),
            ]),
            w.loop(L, (i) => [
              lse.set(i, w.load(pl.buffer, pl.at(sample.query(query(inside(i)), h)))),
              delta.set(i, w.load(pd.buffer, pd.at(sample.query(query(inside(i)), h)))),
            ]),
            ...q.setup,
            ...dout.setup,
            dq.fill(0),
            w.loop(e.div(e.add(keys.get(), BLOCK - 1), BLOCK), (block) => {
              const from = e.scale(block, BLOCK),
                at = sample.key(from, own, none),
                sizes = { rows: count.get(), depth: D, lanes: L },
                keyRows = t.inLanes(pk, at, BLOCK, D, count.get());
              return [
                count.set(e.min(e.index(BLOCK), e.add(keys.get(), [-1, from]))),
                s.fill(0),
                dp.fill(0),
                ...t.rowsProduct(s.matrix(), pk, at, BLOCK, q.matrix(), sizes),
                ...t.rowsProduct(dp.matrix(), pv, at, BLOCK, dout.matrix(), sizes),
                w.loop(count.get(), (j) => [
                  t.each((i) => {
                    const { seen, value } = masks.score(s.at(j, i), e.lt(t.int(e.add(from, j)), limit.at(i)), [
                      b,
                      h,
                      query(inside(i)),
                      e.add(from, j),
                    ]);
                    const p = t.expWhere(seen, t.sub(value, lse.at(i)));
                    return [s.set(j, i, t.mul(t.mul(p, t.sub(dp.at(j, i), delta.at(i))), t.value(scale)))];
                  }),
                ]),
                ...keyRows.setup,
                t.product(dq.matrix(), s.matrix(true), keyRows.matrix, { rows: L, depth: count.get(), lanes: D }),
              ];
            }),
            w.loop(live.get(), (i) => [
              w.vector(D, (d) => [
                w.store(out.buffer, out.at(sample.query(query(i), h, d)), t.add(dq.at(i, d), t.value(0))),
              ]),
            ]),
          ]);
        },
      };
    },
  },
};
