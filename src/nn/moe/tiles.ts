// Spilled rows in rounds: rows within capacity are computed together, then the rows beyond it in rounds of a few rows
// each. Hidden values of rounds are recomputed for gradients, so memory is needed only for the capacities and one
// round. Every sum has the same order as in a dropless layer.
import type { Tensor } from '../../graph/tensor.ts';
import { admitAll, type AllAdmitted } from '../../graph/ops/moe/admitAll.ts';
import { combine } from '../../graph/ops/moe/combine.ts';
import { dispatch } from '../../graph/ops/moe/dispatch.ts';
import { joinRows } from '../../graph/ops/moe/joinRows.ts';
import type { Permutation } from '../../graph/ops/moe/permute.ts';
import { placeRows } from '../../graph/ops/moe/placeRows.ts';
import { splitRows } from '../../graph/ops/moe/splitRows.ts';
import { boundOf } from '../../base/shape.ts';
import { LEAST, oneChunk, throughBank, type Keeping } from './chunks.ts';
import type { ExpertBank } from './experts.ts';

export interface Tiles {
  readonly admitted: AllAdmitted;
  /** Rounds and the rows of one. */
  readonly rounds: number;
  readonly size: number;
}

/** The most rounds. */
const ROUNDS = 8;

/**
 * rows: planned rows within capacity. The rounds have room for all choices, whatever the capacities, so that other
 * capacities change nothing else in the graph.
 */
export function tile(
  all: Permutation,
  limits: Tensor,
  { choices, rows, padded }: { choices: number; rows: number; padded: boolean },
): Tiles {
  const size = Math.max(LEAST, Math.ceil(choices / ROUNDS)),
    rounds = Math.max(1, Math.ceil(choices / size));
  return { admitted: admitAll(all, limits, { rows, beyond: rounds * size, padded }), rounds, size };
}

/** x [tokens, dModel], weights [tokens, k] -> [tokens, dModel]. expertRows: of the routing, for rows within
 * capacity. */
export function inTiles(
  bank: ExpertBank,
  x: Tensor,
  { admitted, rounds, size }: Tiles,
  weights: Tensor,
  { expertRows }: { readonly expertRows: number },
  how: Keeping,
): Tensor {
  const { inside, outside, offsets, order, inverse } = admitted,
    k = boundOf(weights.shape[1]),
    rows = rounds * size;
  const gaps = true,
    used = bank.used(x, true);
  const [kept, others] = splitRows(
    dispatch(x, order, offsets, inverse, { k, gaps }),
    inside.offsets,
    outside.offsets,
    outside.expert,
    { expertRows },
  );
  // The last round is first in the graph, and rows within capacity are last. Gradients go through the graph in reverse,
  // so they sum rows in token order.
  let done: Tensor | null = null;
  for (let start = rows - size; start >= 0; start -= size) {
    done = placeRows(oneChunk(bank, others, outside, { start, size }, used), outside.offsets, done, { start, rows });
  }
  const y = throughBank(bank, kept, inside, how, used);
  return combine(done ? joinRows(y, done, offsets, { expertRows }) : y, inverse, order, weights, { gaps });
}
