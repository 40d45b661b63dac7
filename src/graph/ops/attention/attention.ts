// Attention that never stores the full score matrix. The order of its sums is part of the definition, so that a cached
// step (one query, start = its position) gives the bits of the full pass. For each query, keys are taken in blocks of
// 64 from key 0 of its sample on: s = scale * (q . k), fused multiply-adds over the width ascending; m' = max(m, s);
// p = e^(s - m'), 0 for a key that is not seen; a = e^(m - m'); l = l a + sum(p) in 16 lanes like all sums; o = o a,
// then o = o + p v key by key, fused. The result is o / l. With an additive mask, s = fma(q . k, scale, mask). A query
// for which masks leave no key gets 0, and log-sum-exp -Infinity.
import { UserError } from '../../../base/errors.ts';
import { checkOptions, type KeysOf } from '../../../base/options.ts';
import { aFinite, aFlag, anObject, needed } from '../../../base/kinds.ts';
import { boundOf } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Op } from '../../op.ts';
import { emit, emit1, scalar, zeros, type Tensor } from '../../tensor.ts';
import { biasGradient, checkMasks, Masks } from './attentionMask.ts';
import { attentionSizes, lanesOf, Samples } from './attentionSamples.ts';
import { BLOCK, TileWriter, type AttentionAttrs } from './attentionTile.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    attention: AttentionAttrs;
  }
}

const ENOUGH = 16; // number of tasks that keeps all threads busy
export const OWN = 4; // number of inputs before the masks
const UNROLL = 8; // keys whose scores are compared together

export const attentionOp: Op<AttentionAttrs> = {
  // softmax(scale q k^T) v per head, causal: query i sees keys 0..start + i; masks; and log(sum(exp(scores))).
  name: 'attention',
  activations: { inputs: [0, 1, 2], outputs: [0] },
  keepsRows: true,
  takes: ['floats', 'floats', 'floats'],
  infer(inputs, attrs, ids) {
    const { dtype, shape } = inputs[0];
    checkMasks('attention', inputs, OWN, attrs, attentionSizes('attention', inputs, ids));
    return [
      { dtype, shape },
      { dtype, shape: shape.slice(0, -1) },
    ];
  },
  // With p = e^(s - lse): ds = p (do . v - delta), where delta = do . o minus the gradient of lse (d lse / ds is p).
  grad({ inputs: [q, k, v, start, ...masks], outputs: [o, lse], douts: [d, dlse], attrs, needs }) {
    if (!d && !dlse) return [q, k, v, start, ...masks].map(() => null);
    const axes = o.shape.map((_, i) => i),
      dout = d ?? zeros(o),
      dot = emit1('sum', [emit1('mul', [dout, o])], { axes: axes.slice(-1) });
    const inputs = [q, k, v, start, lse, dlse ? emit1('sub', [dot, dlse]) : dot, dout, ...masks];
    // With many heads and batch entries, one op computes the scores once for all three gradients. With few, two ops
    // have more tasks. The bits are the same.
    const sizes = attentionSizes(
        'attention',
        [q, k, v, start].map((x) => x.type),
      ),
      { B, KV } = sizes;
    const bias = attrs.masked && needs[OWN] ? biasGradient(inputs, attrs, sizes) : null;
    const rest = [null, ...masks.map((_, i) => (i === 0 ? bias : null))];
    if (needs[0] && needs[1] && B * KV >= ENOUGH) return [...emit('attentionGrad', inputs, attrs), ...rest];
    const [dk, dv] = needs[1] || needs[2] ? emit('attentionGradKV', inputs, attrs) : [null, null];
    return [needs[0] ? emit1('attentionGradQ', inputs, attrs) : null, dk, dv, ...rest];
  },
  lower: {
    kind: 'loops',
    strided: [0, 1, 2],
    build(call) {
      const {
        e,
        k: w,
        limits,
        inTypes,
        from: [pq, pk, pv],
        to: [po, pl],
        attrs: { causal },
      } = call;
      const sizes = attentionSizes('attention', inTypes),
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
            o = t.wide(L, D),
            parts = t.array(16);
          const [m, next, a, l] = [t.row(), t.row(), t.row(), t.row()],
            limit = t.row('int32');
          const live = w.scalar('index'),
            keys = w.scalar('index'),
            start = w.scalar('index'),
            count = w.scalar('index');
          const inside = (i: Expr): Expr => e.min(i, e.add(live.get(), -1)),
            lastKey = (j: Expr): Expr => e.min(j, e.add(keys.get(), -1));
          const query = (i: Expr): Expr => e.add(first, i);
          const q = t.turn(pq, sample.query(first, h, none), live.get(), D);
          const masks = new Masks(call, t, OWN, sample),
            minusInfinity = t.value(-Infinity);
          return run([
            ...masks.setup,
            start.set(sample.start),
            live.set(e.min(e.index(L), e.add(sample.queries, [-1, first]))),
            // The number of keys that the queries of this tile see, and that each of them sees.
            keys.set(causal ? e.min(masks.keys, e.add(start.get(), first, live.get())) : masks.keys),
            ...[pk, pv].map((p) => t.prefetch(p, sample.key(none, own, none), e.min(e.index(BLOCK), keys.get()), D)),
            t.each((i) => [
              limit.set(i, t.int(causal ? e.min(masks.keys, e.add(start.get(), first, i, 1)) : masks.keys)),
            ]),
            ...q.setup,
            o.fill(0),
            l.fill(0),
            m.fill(-Infinity),
            w.loop(e.div(e.add(keys.get(), BLOCK - 1), BLOCK), (block) => {
              const from = e.scale(block, BLOCK),
                values = t.inLanes(pv, sample.key(from, own, none), BLOCK, D, count.get());
              return [
                count.set(e.min(e.index(BLOCK), e.add(keys.get(), [-1, from]))),
                s.fill(0),
                ...t.rowsProduct(s.matrix(), pk, sample.key(from, own, none), BLOCK, q.matrix(), {
                  rows: count.get(),
                  depth: D,
                  lanes: L,
                }),
                t.each((i) => [next.set(i, m.at(i))]),
                // Keys beyond the last are not seen.
                w.loop(e.div(e.add(count.get(), UNROLL - 1), UNROLL), (unit) => [
                  t.each((i) => {
                    const places = Array.from({ length: UNROLL }, (_, n) => e.add([UNROLL, unit], n));
                    return [
                      ...places.map((j) => {
                        const key = e.add(from, j),
                          { seen, value } = masks.score(s.at(j, i), e.lt(t.int(key), limit.at(i)), [
                            b,
                            h,
                            query(inside(i)),
                            lastKey(key),
                          ]);
                        return s.set(j, i, e.select(seen, value, minusInfinity));
                      }),
                      next.set(
                        i,
                        places.reduce((most, j) => e.max(most, s.at(j, i)), next.at(i)),
                      ),
                    ];
                  }),
                ]),
                t.each((i) => {
                  const change = t.sub(m.at(i), next.at(i));
                  return [
                    a.set(i, masks.some ? t.expWhere(e.lt(minusInfinity, next.at(i)), change) : t.exp(change)),
                    m.set(i, next.at(i)),
                  ];
                }),
                w.loop(e.scale(e.div(e.add(count.get(), UNROLL - 1), UNROLL), UNROLL), (j) => [
                  t.each((i) => {
                    const x = s.at(j, i);
                    return [s.set(j, i, t.expWhere(e.lt(minusInfinity, x), t.sub(x, m.at(i))))];
                  }),
                ]),
                w.loop(16, (r) => [
                  t.each((i) => {
                    let sum = t.value(0);
                    for (let u = 0; u < BLOCK / 16; u++) sum = t.add(sum, s.at(e.add(r, 16 * u), i));
                    return [parts.set(r, i, sum)];
                  }),
                ]),
                ...[8, 4, 2, 1].map((n) =>
                  w.loop(n, (r) => [t.each((i) => [parts.set(r, i, t.add(parts.at(r, i), parts.at(e.add(r, n), i)))])]),
                ),
                t.each((i) => [l.set(i, t.fma(l.at(i), a.at(i), parts.at(0, i)))]),
                w.loop(L, (i) => [w.vector(D, (d) => [o.set(i, d, t.mul(o.at(i, d), a.at(i)))])]),
                ...values.setup,
                t.product(o.matrix(), s.matrix(true), values.matrix, { rows: L, depth: count.get(), lanes: D }),
              ];
            }),
            w.loop(live.get(), (i) => [
              w.vector(D, (d) => {
                const mean = t.div(o.at(i, d), l.at(i));
                // + 0 turns -0 into +0: the result must not depend on how many unseen keys a sum of -0 has gone over.
                return [
                  w.store(
                    po.buffer,
                    po.at(sample.query(query(i), h, d)),
                    t.add(masks.some ? e.select(e.lt(t.value(0), l.at(i)), mean, t.value(0)) : mean, t.value(0)),
                  ),
                ];
              }),
            ]),
            t.each((i) => [l.set(i, t.add(m.at(i), t.log(l.at(i))))]),
            w.loop(live.get(), (i) => [w.store(pl.buffer, pl.at(sample.query(query(i), h)), l.at(i))]),
          ]);
        },
      };
    },
  },
};

export interface AttentionCall {
  /** Query i sees keys 0 to start + i; otherwise all keys. */
  readonly causal: boolean;
  /** Factor of the scores; default 1 / sqrt(D). */
  readonly scale?: number;
  /**
   * [B or 1, H or 1, T or 1, S or 1]. bool: true where a query may see a key. Float: added to the scores, -Infinity
   * where a query may not see a key; it has gradients, which take memory for all scores.
   */
  readonly mask?: Tensor;
  /** int32 [B]: how many keys of each batch entry are seen. The others are padding, and must be finite. */
  readonly lengths?: Tensor;
}
const KEYS: KeysOf<AttentionCall> = { causal: needed(aFlag), scale: aFinite, mask: anObject, lengths: anObject };

/**
 * softmax(scale q k^T + mask) v for each head, as q. A query that may see no key gets 0. Forms:
 * - q [B, T, H, D], k and v [B, S, Hkv, D], where H / Hkv heads of queries share a head of keys; `start` (int32 [] or a
 *   number): the position of the first query, for `causal`.
 * - q [rows, H, D], k and v [rows, Hkv, D], whose first dimension is the same, in segments: a query sees keys of its
 *   own segment. `start` is 0. The bits of a segment are those of [1, its rows, ..], whatever the other segments are.
 * - q [rows, H, D] of one sequence, k and v [1, S, Hkv, D]: a cache. This form has no gradient.
 * Only the first form takes `mask` and `lengths`.
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, start: Tensor | number, options: AttentionCall): Tensor {
  checkOptions('attention', options, KEYS);
  const [first] = q.shape,
    rows = q.shape.length === 3 && k.shape.length === 3 && typeof first === 'object' && first.kind === 'segmented';
  const { causal, scale = 1 / Math.sqrt(boundOf(q.shape[q.shape.length - 1])), mask, lengths } = options;
  if (!causal && start !== 0)
    throw new UserError('attention: start has no effect where `causal` is false: each query sees all keys', 'give 0');
  if (rows && start !== 0)
    throw new UserError('attention: start must be 0 for rows in segments: the first query of each has position 0');
  const from = rows ? q.builder.tensor(first.offsets) : typeof start === 'number' ? scalar(q, start, 'int32') : start;
  return emit('attention', [q, k, v, from, ...(mask ? [mask] : []), ...(lengths ? [lengths] : [])], {
    causal,
    scale,
    ...(mask && { masked: true }),
    ...(lengths && { lengths: true }),
  })[0];
}
