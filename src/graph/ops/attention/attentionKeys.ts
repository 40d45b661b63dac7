// Gradients of attention, computed by tiles of keys: a tile goes over the queries that see its keys, in blocks of 64.
// The gradients of its keys and values belong to the tile alone; to the gradient of the queries it adds its share,
// after the tiles before it.
import { ShapeError } from '../../../base/errors.ts';
import { sameShape, showType, type TensorType } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Stmt } from '../../../kernel/kernel.ts';
import type { Limits } from '../../limits.ts';
import type { LoopCall, Place } from '../../op.ts';
import { checkMasks, Masks } from './attentionMask.ts';
import { attentionSizes, BLOCK, TileWriter, type AttentionAttrs, type Sizes } from './attentionTile.ts';

/** The number of inputs of the gradient ops before the masks. */
export const GRADIENT_INPUTS = 7;

/**
 * Checks what the gradients of attention need beside its inputs: lse and delta [B, T, H], the gradient of the output
 * [B, T, H, D], and the masks.
 */
export function checkGradientInputs(op: string, inputs: readonly TensorType[], attrs: AttentionAttrs): void {
  const sizes = attentionSizes(op, inputs),
    { B, T, H, D } = sizes,
    wanted = [
      [B, T, H],
      [B, T, H],
      [B, T, H, D],
    ];
  wanted.forEach((shape, i) => {
    const t = inputs[4 + i];
    if (t.dtype !== inputs[0].dtype || !sameShape(t.shape, shape))
      throw new ShapeError(
        `${op}: input ${5 + i} must be ${showType({ dtype: inputs[0].dtype, shape })}, got ${showType(t)}`,
      );
  });
  checkMasks(op, inputs, GRADIENT_INPUTS, attrs, sizes);
}

const lanesOf = (S: number, { tile }: Limits): number => (S === 1 ? 1 : tile);

export const keyTiles = ({ S }: Sizes, limits: Limits): number => Math.ceil(S / lanesOf(S, limits));

/** Where the results lie. If dq is wanted too, the tiles of a head must run one after the other. */
export interface KeyGradients {
  readonly dk: Place;
  readonly dv: Place;
  readonly dq?: Place;
}

/** Writes tile `tile` of the keys of `pair` = batch entry * heads of keys + head. */
export function keyTile(
  call: LoopCall<AttentionAttrs>,
  sizes: Sizes,
  pair: Expr,
  tile: Expr,
  { dk: toK, dv: toV, dq: toQ }: KeyGradients,
): Stmt[] {
  const {
      e,
      k: w,
      inTypes,
      inputs: [, , , bs],
      from: [pq, pk, pv, , pl, pd, pg],
      attrs: { causal, scale },
    } = call,
    { T, S, H, KV, D } = sizes;
  const L = lanesOf(S, call.limits),
    t = new TileWriter(call, inTypes[0].dtype, L),
    b = e.div(pair, KV),
    head = e.mod(pair, KV),
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
  const [k, v] = [pk, pv].map((p) => t.turn(p, [b, first, head, none], live.get(), D));
  const masks = new Masks(call, t, GRADIENT_INPUTS, b, S);
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
      t.rowsProduct(to.matrix(), place, [b, from, h, none], BLOCK, keys.matrix(), {
        rows: count.get(),
        depth: D,
        lanes: L,
      }),
    ),
    w.loop(count.get(), (j) => {
      const query = e.add(from, j),
        sees = causal ? e.add(start.get(), query) : e.add(masks.keys, -1);
      const lse = w.load(pl.buffer, pl.at([b, query, h])),
        delta = w.load(pd.buffer, pd.at([b, query, h]));
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
    const place = t.inLanes(dq, [b, from, h, none], BLOCK, D, count.get()),
      keys = t.inLanes(pk, [b, first, head, none], L, D, live.get());
    const at = (j: Expr, d: Expr): Expr => dq.at([b, e.add(from, j), h, d]),
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
    t.prefetch(p, [b, begin.get(), e.scale(head, H / KV), none], e.min(e.index(BLOCK), e.add(T, [-1, begin.get()])), D),
  );
  return [
    ...masks.setup,
    start.set(w.loadIndex(bs, none)),
    live.set(e.min(e.index(L), e.add(S, [-1, first]))),
    begin.set(begins),
    // If the tiles of a head run one after the other, the first prefetches what all read.
    ...(toQ
      ? [w.when(isFirst, [...[pk, pv].map((p) => t.prefetch(p, [b, none, head, none], L, D)), ...begun])]
      : begun),
    ...(toQ ? [pk, pv].map((p) => t.prefetch(p, [b, e.add(first, L), head, none], L, D)) : []),
    t.each((i) => [key.set(i, t.int(e.add(first, i)))]),
    ...k.setup,
    ...v.setup,
    dk.fill(0),
    dv.fill(0),
    w.loop(H / KV, (sharer) => [
      w.loop(e.div(e.add([-1, begin.get()], T + BLOCK - 1), BLOCK), (block) => {
        const from = e.add(begin.get(), [BLOCK, block]),
          h = e.add([H / KV, head], sharer);
        const [outer, query] = [pg, pq].map((p) => t.inLanes(p, [b, from, h, none], BLOCK, D, count.get())),
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
        const at = [b, e.add(first, i), head, d];
        // + 0 turns -0 into +0.
        return [
          w.store(toK.buffer, toK.at(at), t.add(dk.at(i, d), t.value(0))),
          w.store(toV.buffer, toV.at(at), t.add(dv.at(i, d), t.value(0))),
        ];
      }),
    ]),
  ];
}
