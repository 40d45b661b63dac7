// Sends rows to the ranks that have their experts, or back (MPI_Alltoallv). On the side of tokens, a rank has the rows
// of its own tokens, sorted by expert. On the side of experts, it has the rows of its slots, each expert's in the order
// of the global batch: those from rank 0 first. A collective.
import { ShapeError } from '../../../base/errors.ts';
import { bytesPer } from '../../../base/dtype.ts';
import { boundOf, elements, showType } from '../../../base/shape.ts';
import type { Op, RefCall } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { checkVector, segmentsOf } from '../moe/routing.ts';
import { acrossRanks, checkRanks } from './collective.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    exchangeRows: ExchangeRowsAttrs;
  }
}

/** back: from experts to tokens. rows: the most rows of the result. */
export type ExchangeRowsAttrs = { readonly ranks: number; readonly back: boolean; readonly rows: number };

export const exchangeRowsOp: Op<ExchangeRowsAttrs> = {
  // Inputs: x; counts [ranks, experts], the rows that each rank sends to each expert; slots, the expert in each slot;
  // offsets of the rows in this rank's slots, of its own tokens' rows by expert. Rows that nobody sends are zeros.
  name: 'exchangeRows',
  moves: 'first',
  takes: ['stored'],
  unread: [4],
  infer([x, counts, slots, own, packed], { ranks, back, rows }, ids) {
    checkRanks('exchangeRows', ranks);
    segmentsOf('exchangeRows', x);
    checkVector('exchangeRows', 'slots', slots);
    const experts = boundOf(slots.shape[0]),
      segments = back ? experts : experts / ranks;
    if (counts.dtype !== 'int32' || counts.shape.length !== 2 || elements(counts.shape) !== ranks * experts)
      throw new ShapeError(`exchangeRows: counts must be int32[${ranks}, ${experts}], got ${showType(counts)}`);
    checkVector('exchangeRows', 'offsets of own slots', own, experts / ranks + 1);
    checkVector('exchangeRows', 'offsets of own rows', packed, experts + 1);
    return [
      {
        dtype: x.dtype,
        shape: [{ kind: 'segmented', bound: rows, segments, offsets: back ? ids[4] : ids[3] }, ...x.shape.slice(1)],
      },
    ];
  },
  lower: {
    kind: 'collective',
    ints: ({ inTypes: [x, , slots], attrs: { back, rows } }) => [
      elements(x.shape.slice(1)) * bytesPer(x.dtype),
      boundOf(slots.shape[0]),
      Number(back),
      rows,
    ],
  },
  ...acrossRanks('exchangeRows', (calls) => {
    const results = calls.map(({ outTypes: [o] }) => new Float64Array(elements(o.shape)));
    for (const { from, to, rank, peer, count } of pieces(calls)) {
      const width = elements(calls[0].outTypes[0].shape.slice(1)),
        { back } = calls[0].attrs,
        [source, target] = back ? [peer, rank] : [rank, peer],
        [at, into] = back ? [to, from] : [from, to];
      results[target].set(calls[source].inputs[0].subarray(at * width, (at + count) * width), into * width);
    }
    return results.map((r) => [r]);
  }),
};

interface Piece {
  /** The rank of the tokens, and the first row among its own; the rank of the expert, and the first row there. */
  readonly rank: number;
  readonly from: number;
  readonly peer: number;
  readonly to: number;
  readonly count: number;
}

/** What each rank sends to each expert. */
function pieces(calls: readonly RefCall<ExchangeRowsAttrs>[]): Piece[] {
  const ranks = calls.length,
    [, counts, slots] = calls[0].inputs,
    experts = slots.length,
    own = experts / ranks;
  return calls.flatMap((_, rank) => {
    let from = 0;
    return Array.from({ length: experts }, (_, e): Piece => {
      const slot = slots.indexOf(e),
        peer = Math.floor(slot / own),
        count = counts[rank * experts + e],
        before = Array.from({ length: rank }, (_, s) => counts[s * experts + e]).reduce((a, b) => a + b, 0),
        to = calls[peer].inputs[3][slot - peer * own] + before;
      from += count;
      return { rank, from: from - count, peer, to, count };
    });
  });
}

/** What both directions need to know of the rows: see the op. */
export interface Exchange {
  readonly counts: Tensor;
  readonly slots: Tensor;
  readonly ownOffsets: Tensor;
  readonly packedOffsets: Tensor;
}

/** x [rows in segments, ...rest] -> the rows of the other side [rows in segments, ...rest]. */
export const exchangeRows = (x: Tensor, by: Exchange, attrs: ExchangeRowsAttrs): Tensor =>
  emit1('exchangeRows', [x, by.counts, by.slots, by.ownOffsets, by.packedOffsets], attrs);
