// What an MoE layer keeps of its experts' hidden values. In: a bank and its rows; out: their outputs, with the bits
// that the bank gives all rows at once. Hidden values are the widest of a layer: those that are computed again for
// gradients are not kept, and of a bank that goes through its rows in chunks there is room for those of one chunk.
import { boundOf } from '../../base/shape.ts';
import type { Tensor } from '../../graph/tensor.ts';
import { placeRows } from '../../graph/ops/moe/placeRows.ts';
import { windowOffsets } from '../../graph/ops/moe/windowOffsets.ts';
import { windowOf, windowRows } from '../../graph/ops/moe/windowRows.ts';
import { call, traceOf } from '../../trace/trace.ts';
import type { ExpertBank, Used } from './experts.ts';

export interface Keeping {
  /** Hidden values are computed again. */
  readonly recompute: boolean;
  /** Parts in which a bank goes through its rows; those of more than one are computed again. */
  readonly chunks: number;
}

/** Fewer rows at a time are not worth a product. */
export const LEAST = 64;

/** What `make` computes on the way is kept for gradients, or computed again. */
export const keeping = <T>(x: Tensor, { recompute }: Pick<Keeping, 'recompute'>, make: () => T): T =>
  recompute ? traceOf(x).recomputed(make) : make();

/**
 * rows [segmented, dModel], expert of each row -> [segmented, dModel]. used: of a bank whose sums over rows go on with
 * others (tiles.ts).
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
  // The last rows first: gradients are taken in reverse, and sum rows in token order.
  let done: Tensor | null = null;
  for (let start = size * (Math.ceil(bound / size) - 1); start >= 0; start -= size) {
    const y = oneChunk(bank, rows, { offsets, expert }, { start, size: Math.min(size, bound - start) }, own);
    done = placeRows(y, offsets, done, { start, rows: bound });
  }
  return done ?? rows;
}

/**
 * The rows of a window, computed again for gradients, whose sums go on with those of windows that the graph has later.
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
