// Sorts the choices of all tokens by expert: a stable counting sort. A number outside 0..experts-1 counts as the
// nearest expert. A task sorts a range of choices. Where its rows begin follows from the histograms of all ranges; a
// single range counts by itself.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, elements, showType, type TensorType } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Stmt } from '../../../kernel/kernel.ts';
import type { LoopCall, Op, RefCall } from '../../op.ts';
import { emit, type Tensor } from '../../tensor.ts';
import { choiceStarts } from './choiceStarts.ts';
import { clamped, histogram } from './histogram.ts';
import { rangeAt, rangesOf } from './ranges.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    permute: PermuteAttrs;
  }
}

export type PermuteAttrs = { readonly experts: number };

export const permuteOp: Op<PermuteAttrs> = {
  // Choices sorted by expert: offsets of the experts' rows; choice of each row; row of each choice; expert of each row.
  name: 'permute',
  countsAreInBounds: true,
  infer([x, starts], { experts }): TensorType[] {
    if (x.dtype !== 'int32' || x.shape.length !== 2)
      throw new ShapeError(`permute: needs int32 [tokens, choices], got ${showType(x)}`);
    if (!Number.isInteger(experts) || experts < 1)
      throw new ShapeError(`permute: needs at least one expert, got ${experts}`);
    checkStarts('permute', starts, experts);
    const vector = (n: number): TensorType => ({ dtype: 'int32', shape: [n] }),
      n = elements(x.shape);
    return [vector(experts + 1), vector(n), vector(n), vector(n)];
  },
  lower: {
    kind: 'loops',
    build: (call) => ({
      grid: { extent: rangesIn(call.inTypes[1]), work: null },
      body: (g) => sortRange(call, g, call.inputs[1], call.inTypes[1]),
    }),
  },
};

/** Where all ranges begin (choiceStarts): int32 [ranges, experts], or none. */
export function checkStarts(op: string, starts: TensorType | undefined, experts: number): void {
  if (starts && (starts.dtype !== 'int32' || starts.shape.length !== 2 || starts.shape[1] !== experts))
    throw new ShapeError(`${op}: starts must be int32[ranges, ${experts}], got ${showType(starts)}`);
}

export const rangesIn = (starts: TensorType | undefined): number => (starts ? boundOf(starts.shape[0]) : 1);

/** The same for the reference. */
export function sortedChoices({
  inputs: [x],
  inTypes: [t],
  attrs: { experts },
  rows,
}: RefCall<PermuteAttrs>): Float64Array[] {
  const [offsets, order, inverse, expert] = [
    new Float64Array(experts + 1),
    ...[0, 1, 2].map(() => new Float64Array(x.length)),
  ];
  const own = Array.from(x.subarray(0, rows(t) * boundOf(t.shape[1])), (z) => Math.min(Math.max(z, 0), experts - 1));
  for (const z of own) offsets[z + 1]++;
  for (let z = 0; z < experts; z++) offsets[z + 1] += offsets[z];
  const next = offsets.slice();
  own.forEach((z, c) => {
    const r = next[z]++;
    inverse[c] = r;
    order[r] = c;
    expert[r] = z;
  });
  return [offsets, order, inverse, expert];
}

/** Sorts a range into the four outputs. `starts`: a buffer of the type `ranged`, if that is given. */
export function sortRange(
  call: LoopCall<PermuteAttrs>,
  range: Expr,
  starts: number,
  ranged: TensorType | undefined,
): Stmt[] {
  const {
      e,
      k: w,
      inTypes: [type],
      inputs: [x],
      outputs: [offsets, order, inverse, expert],
      attrs: { experts },
    } = call,
    ranges = rangesIn(ranged),
    choices = e.scale(w.extent(type, 0), boundOf(type.shape[1])),
    [from, size, low, high] = Array.from({ length: 4 }, () => w.scalar('index')),
    own = rangeAt(e, choices, range, ranges),
    share = rangeAt(e, e.index(experts), range, ranges);
  const next = w.array('int32', experts),
    index = (x: Expr): Expr => e.cast(x, 'index'),
    keyOf = (c: Expr): Expr => clamped(call, w.load(x, e.add(from.get(), c)), experts);
  /** The first row of an expert. */
  const first = (z: Expr): Expr => (ranged ? w.load(starts, z) : next.at(z));
  return [
    from.set(own.from),
    size.set(own.size),
    ...(ranged
      ? [w.vector(experts, (z) => [next.set(z, w.load(starts, e.add([experts, range], z)))])]
      : [next.fill(0), w.histogram(next, size.get(), keyOf), w.scan(next, w.scalar('int32'))]),
    w.when(e.eq(range, e.index(0)), [
      w.vector(experts, (z) => [w.store(offsets, z, first(z))]),
      w.store(offsets, e.index(experts), e.cast(choices, 'int32')),
    ]),
    // The rows of some experts.
    w.loop(share.size, (i) => {
      const z = e.add(share.from, i),
        last = e.index(experts - 1);
      return [
        low.set(index(first(z))),
        high.set(e.select(e.lt(z, last), index(first(e.min(e.add(z, 1), last))), choices)),
        w.vector(e.add(high.get(), [-1, low.get()]), (r) => [w.store(expert, e.add(low.get(), r), e.cast(z, 'int32'))]),
      ];
    }),
    w.rank(next, size.get(), keyOf, (c, place) => {
      const choice = e.add(from.get(), c);
      return [w.store(inverse, choice, place), w.store(order, index(place), e.cast(choice, 'int32'))];
    }),
  ];
}

/** The rows of each expert and their places; T * k elements each, unless another number is given. */
export interface Permutation {
  readonly choices: Tensor; // int32 [T, k]: the expert of each choice
  readonly offsets: Tensor; // int32 [experts + 1]
  readonly order: Tensor; // int32: row -> choice t * k + j, ascending within an expert
  readonly inverse: Tensor; // int32: choice -> row
  readonly expert: Tensor; // int32: row -> expert
}

/** indices int32 [T, k]. If T varies at run time, elements beyond the count are not written. */
export function permute(
  indices: Tensor,
  experts: number,
  ranges = rangesOf(elements(indices.shape), experts),
): Permutation {
  const starts = ranges > 1 ? [choiceStarts(histogram(indices, null, { experts, ranges }))] : [],
    [offsets, order, inverse, expert] = emit('permute', [indices, ...starts], { experts });
  return { choices: indices, offsets, order, inverse, expert };
}
