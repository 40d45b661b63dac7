// Sorts the choices of all tokens by expert: a stable counting sort. A number outside 0..experts-1 counts as the
// nearest expert.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, elements, showType, type TensorType } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Stmt } from '../../../kernel/kernel.ts';
import type { LoopCall, Op, RefCall } from '../../op.ts';
import { emit, type Tensor } from '../../tensor.ts';

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
  infer([x], { experts }): TensorType[] {
    if (x.dtype !== 'int32' || x.shape.length !== 2)
      throw new ShapeError(`permute: needs int32 [tokens, choices], got ${showType(x)}`);
    if (!Number.isInteger(experts) || experts < 1)
      throw new ShapeError(`permute: needs at least one expert, got ${experts}`);
    const vector = (n: number): TensorType => ({ dtype: 'int32', shape: [n] }),
      n = elements(x.shape);
    return [vector(experts + 1), vector(n), vector(n), vector(n)];
  },
  lower: { kind: 'loops', build: (call) => ({ grid: { extent: 1, work: null }, body: () => sortChoices(call) }) },
  reference: (call) => sortedChoices(call),
};

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

/** Writes the loops that sort the first input into the four outputs. */
export function sortChoices({
  e,
  k: w,
  inTypes: [type],
  inputs: [x],
  outputs: [offsets, order, inverse, expert],
  attrs: { experts },
}: LoopCall<PermuteAttrs>): Stmt[] {
  const count = e.scale(w.extent(type, 0), boundOf(type.shape[1]));
  const int32 = (v: Expr): Expr => e.cast(v, 'int32'),
    clamp = (v: Expr): Expr => e.min(e.max(v, e.const(0, 'int32')), e.const(experts - 1, 'int32'));
  const next = w.array('int32', experts),
    own = w.scalar('int32'),
    row = w.scalar('int32'),
    sum = w.scalar('int32');
  const one = e.const(1, 'int32'),
    add = (a: Expr, b: Expr): Expr => e.op('add', [a, b]);
  const mine = (): Expr => e.cast(own.get(), 'index');
  return [
    next.fill(0),
    w.loop(count, (c) => [own.set(clamp(w.load(x, c))), next.set(mine(), add(next.at(mine()), one))]),
    // Turns counts into the first row of each expert.
    sum.set(e.const(0, 'int32')),
    w.loop(experts, (z) => [
      row.set(next.at(z)),
      next.set(z, sum.get()),
      w.store(offsets, z, sum.get()),
      sum.set(add(sum.get(), row.get())),
    ]),
    w.store(offsets, e.index(experts), sum.get()),
    w.loop(count, (c) => [
      own.set(clamp(w.load(x, c))),
      row.set(next.at(mine())),
      next.set(mine(), add(row.get(), one)),
      w.store(inverse, c, row.get()),
      w.store(order, e.cast(row.get(), 'index'), int32(c)),
      w.store(expert, e.cast(row.get(), 'index'), own.get()),
    ]),
  ];
}

/** The rows of each expert and their places; T * k elements each, unless another number is given. */
export interface Permutation {
  readonly offsets: Tensor; // int32 [experts + 1]
  readonly order: Tensor; // int32: row -> choice t * k + j, ascending within an expert
  readonly inverse: Tensor; // int32: choice -> row
  readonly expert: Tensor; // int32: row -> expert
}

/** indices int32 [T, k]. If T varies at run time, elements beyond the count are not written. */
export function permute(indices: Tensor, experts: number): Permutation {
  const [offsets, order, inverse, expert] = emit('permute', [indices], { experts });
  return { offsets, order, inverse, expert };
}
