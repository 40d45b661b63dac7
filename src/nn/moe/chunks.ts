// How an MoE layer saves memory for its experts' hidden values, which are the widest of the layer. They can be
// recomputed for gradients, or a bank can compute its rows in chunks, with memory for the hidden values of one chunk.
// In: a bank and its rows; out: their outputs, with the same bits as for all rows at once.
import { boundOf } from '../../base/shape.ts';
import type { Tensor } from '../../graph/tensor.ts';
import { placeRows } from '../../graph/ops/moe/placeRows.ts';
import { windowOffsets } from '../../graph/ops/moe/windowOffsets.ts';
import { windowOf, windowRows } from '../../graph/ops/moe/windowRows.ts';
import { call, traceOf } from '../../trace/trace.ts';
import type { ExpertBank, Used } from './experts.ts';

export interface Keeping {
  /** Whether hidden values are recomputed for gradients. */
  readonly recompute: boolean;
  /** Into how many chunks a bank divides its rows. With more than one, hidden values are recomputed. */
  readonly chunks: number;
}

/** Least rows of a chunk: matrix products of fewer rows are too slow. */
export const LEAST = 64;

/** Runs `make`; its intermediate values are stored for gradients, or recomputed if `recompute` is true. */
export const keeping = <T>(x: Tensor, { recompute }: Pick<Keeping, 'recompute'>, make: () => T): T =>
  recompute ? traceOf(x).recomputed(make) : make();

/**
 * rows [segmented, dModel], expert of each row -> [segmented, dModel]. used: the bank's parameters as tensors, if other
 * rows add to the same gradients (tiles.ts).
 */
export function throughBank(
  bank: ExpertBank,
  rows: Tensor,
  { offsets, expert }: { readonly offsets: Tensor; readonly expert: Tensor },
  how: Keeping,
  used?: Used,
): Tensor {
  const bound = boundOf(rows.shape[0]),
    size = Math.max(LEAST, Math.ceil(bound / how.chunks));
  if (size >= bound)
    return keeping(rows, { recompute: how.recompute || how.chunks > 1 }, () =>
      call(bank, rows, expert, used && { used }),
    );
  const own = used ?? bank.used(rows, true);
  // The last chunk is first in the graph. Gradients go through the graph in reverse, so they sum rows in token order.
  let done: Tensor | null = null;
  for (let start = size * (Math.ceil(bound / size) - 1); start >= 0; start -= size) {
    const y = oneChunk(bank, rows, { offsets, expert }, { start, size: Math.min(size, bound - start) }, own);
    done = placeRows(y, offsets, done, { start, rows: bound });
  }
  return done ?? rows;
}

/**
 * The outputs of one chunk of rows, whose hidden values are recomputed for gradients. Gradients of the bank's
 * parameters are added to those of chunks that come later in the graph.
 */
export function oneChunk(
  bank: ExpertBank,
  rows: Tensor,
  { offsets, expert }: { readonly offsets: Tensor; readonly expert: Tensor },
  part: { readonly start: number; readonly size: number },
  used: Used,
): Tensor {
  const own = windowOffsets(offsets, part);
  return traceOf(rows).recomputed(() =>
    call(bank, windowRows(rows, own, part), windowOf(expert, part), { used, more: true }),
  );
}
