// Choices and rows are routed in ranges: contiguous parts of about equal length, each a task. How many there are
// depends on sizes alone, never on threads.
import type { Expr, Exprs } from '../../../kernel/expr.ts';
import type { Stmt } from '../../../kernel/kernel.ts';
import { partStart } from '../../../kernel/parts.ts';
import type { LoopCall } from '../../op.ts';

// The least rows of a range: enough to be worth a task, and several for each counter that a task goes through.
const ROWS = 4096,
  PER_COUNTER = 16,
  MOST = 64;

/** How many ranges so many rows have that are counted by group: a power of two. */
export const rangesOf = (rows: number, groups: number): number =>
  2 ** Math.floor(Math.log2(Math.max(1, Math.min(MOST, rows / Math.max(ROWS, PER_COUNTER * groups)))));

/** The first of `rows` rows of a range, and their number. */
export function rangeAt(
  e: Exprs,
  rows: Expr,
  range: Expr,
  ranges: number,
): { readonly from: Expr; readonly size: Expr } {
  const cut = { parts: ranges, sample: 1 },
    from = partStart(e, rows, range, cut);
  return { from, size: e.add(partStart(e, rows, e.add(range, 1), cut), [-1, from]) };
}

/** Rows `low` to `high` - 1 of an expert, whose rows begin at `begin`. */
export interface Piece {
  readonly expert: Expr;
  readonly begin: Expr;
  readonly low: Expr;
  readonly high: Expr;
}

/** Runs `body` for each expert that has rows in a range of rows. Inputs 0 and 5: offsets and expert from `permute`. */
export function eachPiece(
  { e, k: w, inputs: [offsets, , , , , expert] }: Pick<LoopCall, 'e' | 'k' | 'inputs'>,
  experts: number,
  { range, ranges }: { readonly range: Expr; readonly ranges: number },
  body: (piece: Piece) => Stmt[],
): Stmt {
  const { from, size } = rangeAt(e, w.loadIndex(offsets, e.index(experts)), range, ranges);
  const [start, end, first, last, begin, low, high] = Array.from({ length: 7 }, () => w.scalar('index'));
  return w.when(e.lt(e.index(0), size), [
    start.set(from),
    end.set(e.add(from, size)),
    first.set(w.loadIndex(expert, start.get())),
    last.set(w.loadIndex(expert, e.add(end.get(), -1))),
    w.loop(e.add(last.get(), [-1, first.get()], 1), (i) => {
      const z = e.add(first.get(), i);
      return [
        begin.set(w.loadIndex(offsets, z)),
        low.set(e.max(begin.get(), start.get())),
        high.set(e.min(w.loadIndex(offsets, e.add(z, 1)), end.get())),
        ...body({ expert: z, begin: begin.get(), low: low.get(), high: high.get() }),
      ];
    }),
  ]);
}
