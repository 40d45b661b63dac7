// The forms of attention, and where the queries and keys of a sample lie in each:
//   fixed   q [B, T, H, D], k and v [B, S, Hkv, D], start: sample b is entry b of the first dimension.
//   rows    q [rows, H, D], k and v [rows, Hkv, D], offsets: sample b is rows offsets[b] to offsets[b + 1] - 1.
//   cached  q [rows, H, D], k and v [1, S, Hkv, D], start: all rows are queries of one sample.
// Kernels are written once, for a sample; a sample's sums do not depend on the form.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, isDynamic, sameDim, showType, type Dim, type TensorType } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Stmt } from '../../../kernel/kernel.ts';
import type { ValueId } from '../../graph.ts';
import type { Limits } from '../../limits.ts';
import type { LoopCall } from '../../op.ts';

/** B: samples. T, S: queries and keys of a sample; where their number varies, the most there can be. */
export interface Sizes {
  readonly form: 'fixed' | 'rows' | 'cached';
  readonly B: number;
  readonly T: number;
  readonly S: number;
  readonly H: number;
  readonly KV: number;
  readonly D: number;
}

/** Of the inputs q, k, v, and start or offsets. `ids`: the inputs; with them, the offsets must be those of q. */
export function attentionSizes(op: string, [q, k, v, start]: readonly TensorType[], ids?: readonly ValueId[]): Sizes {
  const fail = (why: string): never => {
    throw new ShapeError(
      `${op}: ${why}: q ${showType(q)}, k ${showType(k)}, v ${showType(v)}`,
      'q [B, T, H, D]; k, v [B, S, Hkv, D]. Rows in segments: q [rows, H, D]; k, v [rows, Hkv, D], or [1, S, Hkv, D]',
    );
  };
  const [first] = q.shape,
    form = q.shape.length !== 3 ? 'fixed' : k.shape.length === 3 ? 'rows' : 'cached';
  if ([k, v].some((t) => t.dtype !== q.dtype)) fail('needs one dtype');
  if (k.shape.length !== v.shape.length || k.shape.some((d, i) => !sameDim(d, v.shape[i]))) fail('shapes do not fit');
  const fixed = (t: TensorType, rank: number): boolean => t.shape.length === rank && !isDynamic(t.shape);
  const counted = (t: TensorType): boolean => typeof t.shape[0] === 'object' && !isDynamic(t.shape.slice(1));
  if (form === 'fixed' && ![q, k].every((t) => fixed(t, 4))) fail('needs four fixed dimensions');
  if (form !== 'fixed' && !counted(q)) fail('of three dimensions, the first must vary at run time, and no other');
  if (form === 'cached' && (!fixed(k, 4) || k.shape[0] !== 1 || segmentsOf(first) !== 1))
    fail('rows of one sequence see keys [1, S, Hkv, D]');
  if (form !== 'rows' && (start.dtype !== 'int32' || start.shape.length !== 0))
    fail(`start must be an int32 scalar, got ${showType(start)}`);

  const [H, D] = q.shape.slice(-2).map(boundOf),
    [KV, Dk] = k.shape.slice(-2).map(boundOf);
  if (D !== Dk) fail('shapes do not fit');
  if (KV === 0 || H % KV !== 0) fail(`${H} heads cannot share ${KV} heads of keys evenly`);
  if (form === 'rows') {
    if (typeof first !== 'object' || first.kind !== 'segmented' || !sameDim(first, k.shape[0]))
      return fail('queries and keys must be the same rows, in segments');
    if (ids && ids[3] !== first.offsets) fail(`the offsets are not %${first.offsets}`);
    return { form, B: first.segments, T: first.bound, S: first.bound, H, KV, D };
  }
  const [B, T] = form === 'fixed' ? q.shape.map(boundOf) : [1, boundOf(first)],
    [Bk, S] = k.shape.map(boundOf);
  if (B !== Bk) fail('shapes do not fit');
  if (S === 0) fail('there are no keys');
  return { form, B, T, S, H, KV, D };
}

const segmentsOf = (d: Dim): number => (typeof d === 'object' && d.kind === 'segmented' ? d.segments : 1);

/** Queries or keys that a kernel computes together, of a sample that has at most `most`. */
export const lanesOf = (most: number, { tile }: Limits): number => (most === 1 ? 1 : tile);

/** A sample in a kernel. `query` and `key` give the index [..., head, ...] of its rows. */
export interface Sample {
  /** Statements that run before the others are read. */
  readonly setup: readonly Stmt[];
  readonly number: Expr;
  /** The position of the first query. */
  readonly start: Expr;
  readonly queries: Expr;
  readonly keys: Expr;
  query(row: Expr, ...rest: readonly Expr[]): Expr[];
  key(row: Expr, ...rest: readonly Expr[]): Expr[];
}

/**
 * A sample and a head. Expressions of fixed sizes are made when they are read: the terms of an index are printed in the
 * order in which they were made.
 */
export interface Pair {
  readonly sample: Sample;
  readonly head: Expr;
}

/** Some queries (or keys) of a sample: the work of a task. */
interface Tile extends Pair {
  /** Number of the tile within its sample. */
  readonly tile: Expr;
  /** The statements of the task. They run only if the tile has rows. */
  run(body: readonly Stmt[]): Stmt[];
}

export class Samples {
  readonly #call: LoopCall;
  readonly #sizes: Sizes;

  constructor(call: LoopCall, sizes: Sizes) {
    this.#call = call;
    this.#sizes = sizes;
  }

  /** The row of queries with which a sample begins; that of the sample after the last is the number of rows. */
  #offset(b: Expr): Expr {
    const { e, k: w, inputs, inTypes } = this.#call;
    if (this.#sizes.form === 'rows') return w.loadIndex(inputs[3], b);
    return e.select(e.le(b, e.index(0)), e.index(0), w.extent(inTypes[0], 0));
  }

  #sample(number: () => Expr): Sample {
    const { e, k: w, inputs } = this.#call,
      { form, T, S } = this.#sizes;
    const entry = (row: Expr, ...rest: readonly Expr[]): Expr[] => [number(), row, ...rest];
    const loaded = (): Expr => w.loadIndex(inputs[3], e.index(0));
    if (form === 'fixed') {
      const sizes = { queries: e.index(T), keys: e.index(S) };
      return {
        ...sizes,
        setup: [],
        query: entry,
        key: entry,
        get number() {
          return number();
        },
        get start() {
          return loaded();
        },
      };
    }
    const b = number();
    const from = w.scalar('index'),
      count = w.scalar('index');
    const row = (r: Expr, ...rest: readonly Expr[]): Expr[] => [e.add(from.get(), r), ...rest];
    const own = { number: b, queries: count.get(), query: row };
    const setup = [
      from.set(this.#offset(b)),
      count.set(e.max(e.index(0), e.add(this.#offset(e.add(b, 1)), [-1, from.get()]))),
    ];
    if (form === 'rows') return { ...own, setup, start: e.index(0), keys: count.get(), key: row };
    return { ...own, setup, start: loaded(), keys: e.index(S), key: entry };
  }

  /** Task `task` of those that have a whole sample, for each of `heads` heads. */
  pair(heads: number, task: Expr): Pair {
    const { e } = this.#call;
    return {
      sample: this.#sample(() => e.div(task, heads)),
      get head() {
        return e.mod(task, heads);
      },
    };
  }

  /** All tiles of `lanes` rows, for each of `heads` heads. `rows`: of a sample, where the number is fixed. */
  tiles(heads: number, rows: number, lanes: number): { readonly extent: Expr | number; at(task: Expr): Tile } {
    if (this.#sizes.form !== 'fixed') return this.#found(heads, lanes);
    const { e } = this.#call,
      tiles = Math.ceil(rows / lanes);
    return {
      extent: this.#sizes.B * heads * tiles,
      at: (task) => ({
        sample: this.#sample(() => e.div(task, heads * tiles)),
        get head() {
          return e.mod(e.div(task, tiles), heads);
        },
        get tile() {
          e.div(task, tiles);
          return e.mod(task, tiles);
        },
        run: (body) => [...body],
      }),
    };
  }

  /**
   * Sample b has tiles floor(offsets[b] / lanes) + b to floor(offsets[b + 1] / lanes) + b of each head: no two samples
   * share one, and a tile needs no list to find its sample. The last one of a sample may have no rows.
   */
  #found(heads: number, lanes: number): { readonly extent: Expr; at(task: Expr): Tile } {
    const { e, k: w } = this.#call,
      { B } = this.#sizes;
    const before = (b: Expr): Expr => e.div(this.#offset(b), lanes),
      first = (b: Expr): Expr => e.scale(e.add(before(b), b), heads); // task
    return {
      extent: first(e.index(B)),
      at: (task) => {
        const [found, own, tiles, head, tile] = Array.from({ length: 5 }, () => w.scalar('index'));
        const b = B > 1 ? found.get() : e.index(0),
          sample = this.#sample(() => b),
          search: Stmt[] = [found.set(e.index(0))];
        // The last sample whose first task is not after this one. The task after all tasks is that of sample B.
        for (let step = 2 ** Math.floor(Math.log2(B - 1)); step >= 1; step /= 2) {
          const next = e.min(e.add(b, step), e.index(B));
          search.push(found.set(e.select(e.le(first(next), task), next, b)));
        }
        // Offsets that do not ascend may give heads and tiles that do not exist.
        const exists = [
          e.le(e.index(0), own.get()),
          e.lt(head.get(), e.index(heads)),
          e.lt(e.scale(tile.get(), lanes), sample.queries),
        ];
        return {
          sample,
          head: head.get(),
          tile: tile.get(),
          run: (body) => [
            ...(B > 1 ? search : []),
            ...sample.setup,
            own.set(e.add(task, [-1, first(b)])),
            tiles.set(e.max(e.index(1), e.add(before(e.add(b, 1)), [-1, before(b)], 1))),
            head.set(e.op('div', [own.get(), tiles.get()], 'index')),
            tile.set(e.op('mod', [own.get(), tiles.get()], 'index')),
            w.when(
              exists.reduce((x, y) => e.and(x, y)),
              [...body],
            ),
          ],
        };
      },
    };
  }
}
