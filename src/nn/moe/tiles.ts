// Spill in tiles: rows within capacity are computed at once, those beyond it in rounds of a few rows each, whose hidden
// values are not kept but computed again for gradients. Memory is that of the capacities and one round; every sum has
// the order of a dropless layer.
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

/** At most so many rounds. */
const ROUNDS = 8;

/**
 * rows: room for those within capacity. There are rounds enough for all choices, whatever the capacities: another
 * choice of these changes nothing else.
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

/** x [tokens, dModel], weights [tokens, k] -> [tokens, dModel]. stored: of the routing, for rows within capacity. */
export function inTiles(
  bank: ExpertBank,
  x: Tensor,
  { admitted, rounds, size }: Tiles,
  weights: Tensor,
  { materialised: stored }: { readonly materialised: boolean },
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
    { stored },
  );
  // Last round first, rows within capacity at last: gradients are taken in reverse, and sum rows in token order.
  let done: Tensor | null = null;
  for (let start = rows - size; start >= 0; start -= size) {
    done = placeRows(oneChunk(bank, others, outside, { start, size }, used), outside.offsets, done, { start, rows });
  }
  const y = throughBank(bank, kept, inside, how, used);
  return combine(done ? joinRows(y, done, offsets, { stored }) : y, inverse, order, weights, { gaps });
}
