// How tokens get to experts and back: four ways to compute the same layer. In: tokens, choices, experts; out: [tokens,
// width]. `ragged` computes the rows that there are; `padded` as many rows for each expert as its capacity, zeros
// included; `einsum` moves tokens by one-hot masks as matrix products (GShard, Lepikhin et al. 2020, Algorithm 2);
// `dense` computes all experts on all tokens.
import { boundOf } from '../../base/shape.ts';
import { UserError } from '../../base/errors.ts';
import { emit1, full, scalar, type Tensor } from '../../graph/tensor.ts';
import { add } from '../../graph/ops/elementwise/add.ts';
import { cast } from '../../graph/ops/elementwise/cast.ts';
import { concat } from '../../graph/ops/shape/concat.ts';
import { expand } from '../../graph/ops/shape/expand.ts';
import { gather } from '../../graph/ops/shape/gather.ts';
import { less } from '../../graph/ops/elementwise/less.ts';
import { matmul } from '../../graph/ops/matmul/matmul.ts';
import { mul } from '../../graph/ops/elementwise/mul.ts';
import { oneHot } from '../../graph/ops/create/oneHot.ts';
import { reshape } from '../../graph/ops/shape/reshape.ts';
import { slice } from '../../graph/ops/shape/slice.ts';
import { sub } from '../../graph/ops/elementwise/sub.ts';
import { sum } from '../../graph/ops/reduce/sum.ts';
import { transpose } from '../../graph/ops/shape/transpose.ts';
import { call } from '../../trace/trace.ts';
import type { Module } from '../../trace/module.ts';
import { keeping, throughBank, type Keeping } from './chunks.ts';
import { ExpertBank } from './experts.ts';
import { fromRows, gatesOf, join, placesOf, split, toRows } from './operators.ts';
import type { Routing } from './routing.ts';
import { inTiles } from './tiles.ts';

export const DISPATCHES = ['ragged', 'padded', 'einsum', 'dense'] as const;
export type Dispatch = (typeof DISPATCHES)[number];

/** A bank, or modules of any shapes that take rows [n, dModel] and give as many rows, all of one width. */
export type Experts = ExpertBank | readonly Module<Tensor, Tensor>[];

/** x [tokens, dModel], weights [tokens, k] -> [tokens, width]. */
export function runExperts(
  dispatch: Dispatch,
  experts: Experts,
  x: Tensor,
  routing: Routing,
  indices: Tensor,
  weights: Tensor,
  how: Keeping,
): Tensor {
  if (how.chunks > 1 && dispatch !== 'ragged' && dispatch !== 'padded')
    throw new UserError(
      `MoE: dispatch ${dispatch} does not compute in chunks`,
      'ragged and padded do; recompute: true is for all',
    );
  switch (dispatch) {
    case 'ragged':
    case 'padded': {
      if (routing.tiles && experts instanceof ExpertBank)
        return inTiles(experts, x, routing.tiles, weights, routing, how);
      return fromRows(byRows(experts, x, routing, how), routing, weights);
    }
    case 'einsum':
      return byMasks(experts, x, routing, indices, weights, how);
    case 'dense':
      return everywhere(experts, x, routing, indices, weights, how);
  }
}

/** The outputs for all rows of the routing. */
function byRows(experts: Experts, x: Tensor, routing: Routing, how: Keeping): Tensor {
  const rows = toRows(x, routing);
  return experts instanceof ExpertBank
    ? throughBank(experts, rows, routing.rows, how)
    : join(
        split(rows, routing).map((own, e) => keeping(own, how, () => checked(call(experts[e], own), own, e))),
        routing,
      );
}

function checked(y: Tensor, x: Tensor, e: number): Tensor {
  if (y.shape.length !== 2 || boundOf(y.shape[0]) !== boundOf(x.shape[0]))
    throw new UserError(
      `expert ${e}: makes ${y.toString()} of ${x.toString()}`,
      'an expert gives one row for each row it gets',
    );
  return y;
}

/** All experts on as many rows each: [experts, rows, dModel] -> [experts, rows, width]. */
function batched(experts: Experts, x: Tensor): Tensor {
  if (experts instanceof ExpertBank) return experts.batched(x);
  const [, rows, width] = x.shape.map(boundOf);
  return concat(
    experts.map((m, e) => {
      const own = reshape(slice(x, 0, e, e + 1), [rows, width]),
        y = checked(call(m, own), own, e);
      return reshape(y, [1, rows, boundOf(y.shape[1])]);
    }),
    0,
  );
}

/** weights with 0 for choices that were dropped. */
const kept = (routing: Routing, weights: Tensor): Tensor =>
  routing.mayDrop
    ? mul(weights, cast(less(scalar(weights, -1, 'int32'), placesOf(routing, weights)), weights.dtype))
    : weights;

function byMasks(
  experts: Experts,
  x: Tensor,
  routing: Routing,
  indices: Tensor,
  weights: Tensor,
  how: Keeping,
): Tensor {
  const { experts: count, rows, k, bounds } = routing,
    [tokens, width] = x.shape.map(boundOf),
    room = Math.max(1, ...bounds);
  // Position of each choice among its expert's rows; negative if the choice was dropped, because its row is -1 and no
  // segment begins below 0.
  const slot = sub(placesOf(routing, indices), gather(rows.offsets, indices));
  const placed = cast(
    mul(reshape(oneHot(indices, count), [tokens, k, count, 1]), reshape(oneHot(slot, room), [tokens, k, 1, room])),
    x.dtype,
  );
  // [tokens, experts, room]
  const mask = sum(placed, [1]),
    weighted = sum(mul(placed, reshape(weights, [tokens, k, 1, 1])), [1]);
  // [experts * room, dModel]
  const sent = matmul(reshape(mask, [tokens, count * room]), x, { transA: true });
  const y = keeping(x, how, () => batched(experts, reshape(sent, [count, room, width]))),
    out = boundOf(y.shape[2]);
  return matmul(reshape(weighted, [tokens, count * room]), reshape(y, [count * room, out]));
}

function everywhere(
  experts: Experts,
  x: Tensor,
  routing: Routing,
  indices: Tensor,
  weights: Tensor,
  how: Keeping,
): Tensor {
  const { experts: count } = routing,
    [tokens, width] = x.shape.map(boundOf);
  if (typeof x.shape[0] !== 'number')
    return everywhereCounted(experts, x, gatesOf(indices, kept(routing, weights), count), how);
  const like = full(x, [count, tokens, width], 0);
  const y = keeping(x, how, () => batched(experts, expand(x, like, [0]))); // [experts, tokens, width]
  const gates = transpose(gatesOf(indices, kept(routing, weights), count)); // [experts, tokens]
  return sum(mul(y, reshape(gates, [count, tokens, 1])), [0]);
}

/**
 * The same where the number of tokens varies, which only a first dimension may: one expert after the other. gates
 * [tokens, experts]. Sums have the order of those above.
 */
function everywhereCounted(experts: Experts, x: Tensor, gates: Tensor, how: Keeping): Tensor {
  // Expert e reads copy e. Copy e + 1 gets the gradients of the experts up to e, whose sum thus begins with the first.
  const copies = [x];
  while (copies.length <= boundOf(gates.shape[1]))
    copies.unshift(emit1('reshape', [copies[0]], { shape: x.shape.map(boundOf) }));
  const outputs = keeping(x, how, () =>
    copies
      .slice(0, -1)
      .map((own, e) => (experts instanceof ExpertBank ? experts.one(own, e) : checked(call(experts[e], own), own, e))),
  );
  const weighted = outputs.map((y, e) => mul(exact(y), slice(gates, 1, e, e + 1)));
  return exact(weighted.reduce((total, y) => add(total, y)));
}

/**
 * x [rows, width], with 0 for -0, as a sum: where activations are rounded to 16 bits, those before and after a sum are
 * rounded each for itself (passes/round-activations.ts).
 */
function exact(x: Tensor): Tensor {
  const [rows, width] = x.shape.map(boundOf);
  return sum(reshape(x, [rows, 1, width]), [1]);
}
