// Spill in tiles: rows within capacity are computed at once, those beyond it in rounds of a few rows each, whose hidden values are not kept but
// computed again for gradients. Memory is that of the capacities and one round; every sum has the order of a dropless layer.
import type { Tensor } from '../../graph/tensor.ts';
import { admitAll, type AllAdmitted } from '../../graph/ops/admitAll.ts';
import { combine } from '../../graph/ops/combine.ts';
import { dispatch } from '../../graph/ops/dispatch.ts';
import { joinRows } from '../../graph/ops/joinRows.ts';
import type { Permutation } from '../../graph/ops/permute.ts';
import { placeRows } from '../../graph/ops/placeRows.ts';
import { splitRows } from '../../graph/ops/splitRows.ts';
import { windowOffsets } from '../../graph/ops/windowOffsets.ts';
import { windowOf, windowRows } from '../../graph/ops/windowRows.ts';
import { boundOf } from '../../base/shape.ts';
import { call, traceOf } from '../../trace/trace.ts';
import type { ExpertBank } from './experts.ts';

export interface Tiles {
  readonly admitted: AllAdmitted;
  /** Planned rows within capacity. */
  readonly rows: number;
  /** Rounds and the rows of one. */
  readonly rounds: number;
  readonly size: number;
}

/** At most so many rounds; and not fewer rows in one than a product needs to be worth its while. */
const ROUNDS = 8, LEAST = 64;

/** caps: rows of each expert, of which a token chooses k; rows: room for them. */
export function tile(all: Permutation, limits: Tensor, caps: readonly number[], { tokens, k, rows, padded }: { tokens: number; k: number; rows: number; padded: boolean }): Tiles {
  const size = Math.max(LEAST, Math.ceil((tokens * k) / ROUNDS));
  // Most rows are beyond where every token chooses the k experts with the least capacity.
  const most = [...caps].sort((a, b) => a - b).slice(0, k).reduce((n, c) => n + Math.max(0, tokens - c), 0);
  // One round always, so that kernels are the same for all capacities.
  const rounds = Math.max(1, Math.ceil(most / size));
  return { admitted: admitAll(all, limits, { rows, beyond: rounds * size, padded }), rows, rounds, size };
}

/** x [tokens, dModel], weights [tokens, k] -> [tokens, dModel]. */
export function inTiles(bank: ExpertBank, x: Tensor, { admitted, rows, rounds, size }: Tiles, weights: Tensor): Tensor {
  const { inside, outside, offsets, order, inverse } = admitted, [tokens, k] = weights.shape.map(boundOf), usual = tokens * k, beyond = rounds * size, usualBeyond = ROUNDS * size;
  const trace = traceOf(x), gaps = true, own = bank.used(x, true);
  const [kept, others] = splitRows(dispatch(x, order, offsets, inverse, { k, gaps }), inside.offsets, outside.offsets, { rows, beyond, usual, usualBeyond });
  // Last round first, rows within capacity at last: gradients are taken in reverse, and sum rows in token order.
  let done: Tensor | null = null;
  for (let start = (rounds - 1) * size; start >= 0; start -= size) {
    const part = { start, size }, offsets = windowOffsets(outside.offsets, part);
    const y = trace.recomputed(() => call(bank, windowRows(others, offsets, part), windowOf(outside.expert, part), { used: own, more: true }));
    done = placeRows(y, outside.offsets, done, { start, rows: beyond, usual: usualBeyond });
  }
  const y = call(bank, kept, inside.expert, { used: own });
  return combine(done ? joinRows(y, done, offsets) : y, inverse, order, weights, { gaps });
}
