// Gradients of attention, computed by tiles of keys: a tile goes over the queries that see its keys, in blocks of 64.
// The gradients of its keys and values belong to the tile alone; to the gradient of the queries it adds its share,
// after the tiles before it.
import { ShapeError } from '../../../base/errors.ts';
import { sameShape, showType, type TensorType } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Stmt } from '../../../kernel/kernel.ts';
import type { ValueId } from '../../graph.ts';
import type { LoopCall, Place } from '../../op.ts';
import { checkMasks, Masks } from './attentionMask.ts';
import { attentionSizes, lanesOf, type Pair, type Sizes } from './attentionSamples.ts';
import { BLOCK, TileWriter, type AttentionAttrs } from './attentionTile.ts';

/** The number of inputs of the gradient ops before the masks. */
export const GRADIENT_INPUTS = 7;

/**
 * Checks what the gradients of attention need beside its inputs: lse and delta, as q without the last dimension, the
 * gradient of the output, as q, and the masks.
 */
export function checkGradientInputs(
  op: string,
  inputs: readonly TensorType[],
  attrs: AttentionAttrs,
  ids: readonly ValueId[],
): void {
  const sizes = attentionSizes(op, inputs, ids),
    { shape: all } = inputs[0],
    rows = all.slice(0, -1),
    wanted = [rows, rows, all];
  if (sizes.form === 'cached')
    throw new ShapeError(
      `${op}: attention of rows over a cache has no gradient`,
      'give k and v of the same rows as q, or all of fixed sizes',
    );
  wanted.forEach((shape, i) => {
    const t = inputs[4 + i];
    if (t.dtype !== inputs[0].dtype || !sameShape(t.shape, shape))
      throw new ShapeError(
        `${op}: input ${5 + i} must be ${showType({ dtype: inputs[0].dtype, shape })}, got ${showType(t)}`,
      );
  });
  checkMasks(op, inputs, GRADIENT_INPUTS, attrs, sizes);
}

/** Where the results lie. If dq is wanted too, the tiles of a head must run one after the other. */
export interface KeyGradients {
  readonly dk: Place;
  readonly dv: Place;
  readonly dq?: Place;
}

/** Writes tile `tile` of the keys of a sample, for a head of keys. */
export function keyTile(
  call: LoopCall<AttentionAttrs>,
  { S, H, KV, D }: Sizes,
  at: Pair,
  tile: Expr,
  { dk: toK, dv: toV, dq: toQ }: KeyGradients,
): Stmt[] {
  const {
      e,
      k: w,
      inTypes,
      from: [pq, pk, pv, , pl, pd, pg],
      attrs: { causal, scale },
    } = call,
    { sample } = at,
    { number: b, queries: T } = sample,
    { head } = at;
  const L = lanesOf(S, call.limits),
    t = new TileWriter(call, inTypes[0].dtype, L),
    first = e.scale(tile, L),
    none = e.index(0);
  const dk = t.wide(L, D),
    dv = t.wide(L, D),
    s = t.array(BLOCK),
    dp = t.array(BLOCK);
  const key = t.row('int32'),
    live = w.scalar('index'),
    begin = w.scalar('index'),
    start = w.scalar('index'),
    count = w.scalar('index'),
    last = w.scalar('int32');
  const [k, v] = [pk, pv].map((p) => t.turn(p, sample.key(first, head, none), live.get(), D));
  const masks = new Masks(call, t, GRADIENT_INPUTS, sample);
  const inside = (i: Expr): Expr => e.min(i, e.add(live.get(), -1));
  // The first query that sees the first key of the tile. The first tile goes over all queries, to initialise the rows
  // of dq.
  const seenFrom = e.max(none, e.add(first, [-1, start.get()])),
    isFirst = e.eq(tile, none);
  const begins = causal ? (toQ ? e.select(isFirst, none, seenFrom) : seenFrom) : none;

  const scores = (from: Expr, h: Expr): Stmt[] => [
    s.fill(0),
    dp.fill(0),
    ...[[s, pq, k] as const, [dp, pg, v] as const].flatMap(([to, place, keys]) =>
      t.rowsProduct(to.matrix(), place, sample.query(from, h, none), BLOCK, keys.matrix(), {
        rows: count.get(),
        depth: D,
        lanes: L,
      }),
    ),
    w.loop(count.get(), (j) => {
      const query = e.add(from, j),
        sees = causal ? e.add(start.get(), query) : e.add(masks.keys, -1);
      const lse = w.load(pl.buffer, pl.at(sample.query(query, h))),
        delta = w.load(pd.buffer, pd.at(sample.query(query, h)));
      return [
        last.set(t.int(e.min(sees, e.add(masks.keys, -1)))),
        t.each((i) => {
          const { seen, value } = masks.score(s.at(j, i), e.le(key.at(i), last.get()), [
            b,
            h,
            query,
            e.add(first, inside(i)),
          ]);
          return [
            s.set(j, i, t.expWhere(seen, t.sub(value, lse))),
            dp.set(j, i, t.mul(t.mul(s.at(j, i), t.sub(dp.at(j, i), delta)), t.value(scale))),
          ];
        }),
      ];
    }),
  ];

  /**
   * Adds the share of this tile's keys to dq of the block's queries: in memory, or in a copy if the lanes do not fit
   * there.
   */
  const queries = (dq: Place, from: Expr, h: Expr): Stmt[] => {
    const place = t.inLanes(dq, sample.query(from, h, none), BLOCK, D, count.get()),
      keys = t.inLanes(pk, sample.key(first, head, none), L, D, live.get());
    const at = (j: Expr, d: Expr): Expr => dq.at(sample.query(e.add(from, j), h, d)),
      store = (value: (j: Expr, d: Expr) => Expr): Stmt =>
        w.loop(count.get(), (j) => [w.vector(D, (d) => [w.store(dq.buffer, at(j, d), value(j, d))])]);
    return [
      w.when(isFirst, [store(() => t.value(0))]),
      ...place.setup,
      ...keys.setup,
      t.product(place.matrix, dp.matrix(), keys.matrix, { rows: count.get(), depth: live.get(), lanes: D }),
      ...(place.setup.length > 0 ? [store((j, d) => t.read(place.matrix, j, d))] : []),
    ];
  };

  const begun = [pq, pg].map((p) =>
    t.prefetch(
      p,
      sample.query(begin.get(), e.scale(head, H / KV), none),
      e.min(e.index(BLOCK), e.add(T, [-1, begin.get()])),
      D,
    ),
  );
  return [
    ...masks.setup,
    start.set(sample.start),
    live.set(e.min(e.index(L), e.add(sample.keys, [-1, first]))),
    begin.set(begins),
    // If the tiles of a head run one after the other, the first prefetches what all read.
    ...(toQ
      ? [w.when(isFirst, [...[pk, pv].map((p) => t.prefetch(p, sample.key(none, head, none), L, D)), ...begun])]
      : begun),
    ...(toQ ? [pk, pv].map((p) => t.prefetch(p, sample.key(e.add(first, L), head, none), L, D)) : []),
    t.each((i) => [key.set(i, t.int(e.add(first, i)))]),
    ...k.setup,
    ...v.setup,
    dk.fill(0),
    dv.fill(0),
    w.loop(H / KV, (sharer) => [
      w.loop(e.div(e.add([-1, begin.get()], T, BLOCK - 1), BLOCK), (block) => {
        const from = e.add(begin.get(), [BLOCK, block]),
          h = e.add([H / KV, head], sharer);
        const [outer, query] = [pg, pq].map((p) => t.inLanes(p, sample.query(from, h, none), BLOCK, D, count.get())),
          sizes = { rows: L, depth: count.get(), lanes: D };
        return [
          count.set(e.min(e.index(BLOCK), e.add(T, [-1, from]))),
          ...scores(from, h),
          ...outer.setup,
          ...query.setup,
          t.product(dv.matrix(), s.matrix(true), outer.matrix, sizes),
          t.product(dk.matrix(), dp.matrix(true), query.matrix, sizes),
          ...(toQ ? queries(toQ, from, h) : []),
        ];
      }),
    ]),
    w.loop(live.get(), (i) => [
      w.vector(D, (d) => {
        const at = sample.key(e.add(first, i), head, d);
        // + 0 turns -0 into +0.
        return [
          w.store(toK.buffer, toK.at(at), t.add(dk.at(i, d), t.value(0))),
          w.store(toV.buffer, toV.at(at), t.add(dv.at(i, d), t.value(0))),
        ];
      }),
    ]),
  ];
}
