// What kernels that move sorted rows into new segments share (admit, admitAll): where each segment begins, where each
// row and each choice goes, and what lies in rows that no choice fills.
import { boundOf } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Stmt } from '../../../kernel/kernel.ts';
import type { LocalArray, LoopCall } from '../../op.ts';
import { clamped } from './histogram.ts';
import { eachPiece, rangeAt } from './ranges.ts';

/** Inputs: offsets, order, capacity, choices, inverse, expert. */
type Call = Pick<LoopCall, 'e' | 'k' | 'inputs' | 'inTypes'>;

/** The capacity of an expert, and the number of its rows before; int32. */
export function roomAt({ e, k: w, inputs: [offsets, , capacity] }: Call, z: Expr): { room: Expr; count: Expr } {
  return {
    room: e.max(e.const(0, 'int32'), w.load(capacity, z)),
    count: e.op('sub', [w.load(offsets, e.add(z, 1)), w.load(offsets, z)]),
  };
}

/** Segments one after the other, of which no more than `limit` rows exist. Numbers of rows are int32. */
export class Segments {
  readonly #call: Call;
  readonly #sizes: LocalArray;
  readonly #count: number;
  readonly #limit: Expr;
  readonly #sizeOf: (segment: Expr) => Expr;

  constructor(call: Call, count: number, limit: Expr, sizeOf: (segment: Expr) => Expr) {
    this.#call = call;
    this.#sizes = call.k.array('int32', count + 1);
    this.#count = count;
    this.#limit = call.e.cast(limit, 'int32');
    this.#sizeOf = sizeOf;
  }

  /** Computes where each begins. */
  find(): Stmt[] {
    const { e, k: w } = this.#call;
    return [
      this.#sizes.fill(0),
      w.vector(this.#count, (z) => [this.#sizes.set(z, e.min(this.#sizeOf(z), this.#limit))]),
      w.scan(this.#sizes, w.scalar('int32')),
    ];
  }

  /** The first row of a segment; of segment number `count`, the number of all rows. */
  at(segment: Expr): Expr {
    return this.#call.e.min(this.#sizes.at(segment), this.#limit);
  }

  get rows(): Expr {
    return this.at(this.#call.e.index(this.#count));
  }

  /** Stores the offsets of all segments. */
  store(to: number): Stmt {
    const { k: w } = this.#call;
    return w.vector(this.#count + 1, (z) => [w.store(to, z, this.at(z))]);
  }

  /** Marks the rows that no choice fills: those of each segment from `filled` on. Each range has some segments. */
  pad(filled: (segment: Expr) => Expr, { range, ranges }: Share, order: number, expert: number): Stmt {
    const { e, k: w } = this.#call,
      { from, size } = rangeAt(e, e.index(this.#count), range, ranges);
    const begin = w.scalar('index');
    return w.loop(size, (i) => {
      const z = e.add(from, i);
      return [
        begin.set(e.cast(filled(z), 'index')),
        w.vector(e.add(e.cast(this.at(e.add(z, 1)), 'index'), [-1, begin.get()]), (j) => {
          const row = e.add(begin.get(), j);
          return [w.store(order, row, e.const(-1, 'int32')), w.store(expert, row, e.cast(z, 'int32'))];
        }),
      ];
    });
  }
}

/** One of several ranges. */
export interface Share {
  readonly range: Expr;
  readonly ranges: number;
}

/** Some rows of each expert, which keep their order. */
export interface Moved {
  /** How many rows of an expert move, after those of the list before; int32. Null: all that are left. */
  readonly count: ((expert: Expr) => Expr) | null;
  /** Where they go; int32. */
  readonly to: (expert: Expr) => Expr;
  /** The buffer for the experts of the new rows, and the new row where it begins. */
  readonly expert: number;
  readonly base: Expr;
}

/** Moves the first rows of each expert, as the list says; the others are dropped. Writes `order` and `inverse`. */
export class Move {
  readonly #call: Call;
  readonly #experts: number;
  readonly #list: readonly (Moved & { readonly end: LocalArray | null; readonly shift: LocalArray })[];

  constructor(call: Call, list: readonly Moved[]) {
    this.#call = call;
    this.#experts = boundOf(call.inTypes[0].shape[0]) - 1;
    const array = (): LocalArray => call.k.array('int32', this.#experts);
    this.#list = list.map((m) => ({ ...m, end: m.count && array(), shift: array() }));
  }

  /** Computes where the rows of each expert go. */
  find(): Stmt {
    const {
      e,
      k: w,
      inputs: [offsets],
    } = this.#call;
    return w.vector(this.#experts, (z) =>
      this.#list.flatMap(({ count, to, end, shift }, i) => {
        const begin = this.#list[i - 1]?.end?.at(z) ?? w.load(offsets, z);
        return [
          ...(count && end ? [end.set(z, e.op('add', [begin, count(z)]))] : []),
          shift.set(z, e.op('sub', [to(z), begin])),
        ];
      }),
    );
  }

  /** The rows of a range. */
  rows(share: Share, order: number): Stmt {
    const {
        e,
        k: w,
        inputs: [, from],
      } = this.#call,
      ends = this.#list.map(() => w.scalar('index')),
      far = w.scalar('index'),
      near = w.scalar('index');
    return eachPiece(this.#call, this.#experts, share, ({ expert: z, low, high }) =>
      this.#list.flatMap(({ end, shift, expert, base }, i) => {
        const begin = i === 0 ? low : ends[i - 1].get();
        return [
          ends[i].set(end ? e.max(begin, e.min(high, e.cast(end.at(z), 'index'))) : high),
          far.set(e.cast(shift.at(z), 'index')),
          near.set(e.add(far.get(), [-1, base])),
          w.vector(e.add(ends[i].get(), [-1, begin]), (j) => {
            const at = e.add(begin, j),
              row = e.add(at, far.get());
            return [w.store(order, row, w.load(from, at)), w.store(expert, e.add(row, [-1, base]), e.cast(z, 'int32'))];
          }),
        ];
      }),
    );
  }

  /** The choices of a range. */
  choices({ range, ranges }: Share, inverse: number): Stmt[] {
    const {
        e,
        k: w,
        inputs: [offsets, , , choices, from],
      } = this.#call,
      own = rangeAt(e, w.loadIndex(offsets, e.index(this.#experts)), range, ranges),
      first = w.scalar('index'),
      size = w.scalar('index');
    return [
      first.set(own.from),
      size.set(own.size),
      w.vector(size.get(), (i) => {
        const c = e.add(first.get(), i),
          z = e.cast(clamped(this.#call, w.load(choices, c), this.#experts), 'index'),
          row = w.load(from, c);
        const moved = this.#list.reduceRight(
          (rest, { end, shift }) => {
            const to = e.op('add', [row, shift.at(z)]);
            return end ? e.select(e.lt(row, end.at(z)), to, rest) : to;
          },
          e.const(-1, 'int32'),
        );
        return [w.store(inverse, c, moved)];
      }),
    ];
  }
}

/** Kernels read row 0 in place of a missing row, and ignore the value: it is initialised even if there are no rows. */
export function firstRow({ e, k: w }: Pick<LoopCall, 'e' | 'k'>, rows: Expr, of: number, value: number): Stmt {
  return w.when(e.eq(rows, e.const(0, 'int32')), [w.store(of, e.index(0), e.const(value, 'int32'))]);
}
