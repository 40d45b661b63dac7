// Sorts the last axis. Stable: equal elements keep their order, in both directions. NaN comes last in both. Merge sort:
// runs of 1, 2, 4, ... elements are merged, one row per task, from one output to the other and back; the second output
// becomes the inverse of the first at the end.
import { isFloat } from '../../../base/dtype.ts';
import { ShapeError } from '../../../base/errors.ts';
import { checkOptions, type KeysOf } from '../../../base/options.ts';
import { aFlag, aNumber } from '../../../base/kinds.ts';
import { boundOf, elements, showType } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Stmt } from '../../../kernel/kernel.ts';
import type { Op } from '../../op.ts';
import { emit, emit1, type Tensor } from '../../tensor.ts';
import { fromLast, lastAxis } from '../shape/arrange.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    sort: SortAttrs;
  }
}

export type SortAttrs = { readonly descending: boolean };

const WORK = 2; // of an element that is sorted

export const sortOp: Op<SortAttrs> = {
  // Last axis in order, stable, NaN last; the index of each; the place of each index.
  name: 'sort',
  infer([x]) {
    if (typeof x.shape.at(-1) !== 'number' || !(isFloat(x.dtype) || x.dtype === 'int32')) {
      throw new ShapeError(`sort: needs floats or int32 and a last dimension of fixed size, got ${showType(x)}`);
    }
    const index = { dtype: 'int32' as const, shape: x.shape };
    return [x, index, index];
  },
  grad: ({ outputs: [, , places], douts: [d] }) => [d && emit1('takeAlong', [d, places], { zeros: false })],
  lower: {
    kind: 'loops',
    update: true,
    build({
      e,
      k: w,
      inTypes: [{ dtype, shape }],
      inTypes: [type],
      inputs: [x],
      outputs: [values, indices, places],
      attrs: { descending },
    }) {
      const n = boundOf(shape[shape.length - 1]),
        inner = elements(shape.slice(1, -1));
      const rows = shape.length === 1 ? e.index(1) : e.scale(w.extent(type, 0), inner),
        size = e.index(n),
        one = e.index(1),
        zero = e.index(0);
      const before = (a: Expr, b: Expr): Expr =>
        e.or(descending ? e.lt(b, a) : e.lt(a, b), e.and(e.eq(a, a), e.op('ne', [b, b])));
      const int32 = (v: Expr): Expr => e.cast(v, 'int32');
      return {
        grid: { extent: rows, work: WORK * Math.max(1, n) },
        body(g) {
          const at = (i: Expr): Expr => e.add([n, g], i),
            index = (): ReturnType<typeof w.scalar> => w.scalar('index');
          const [width, left, middle, right, end, a, b, second] = [
            index(),
            index(),
            index(),
            index(),
            index(),
            index(),
            index(),
            index(),
          ];
          const [first, other] = [w.scalar(dtype), w.scalar(dtype)];
          /**
           * Merges pairs of runs of `width` elements. The next element is that of `right` if it comes before that of
           * `left`, or if `left` is used up.
           */
          const merge = (from: number, to: number): Stmt[] => [
            end.set(zero),
            w.loop(n, (k) => {
              const hasLeft = e.lt(left.get(), middle.get()),
                hasRight = e.lt(right.get(), end.get());
              return [
                w.when(e.eq(k, end.get()), [
                  left.set(end.get()),
                  middle.set(e.min(size, e.add(end.get(), width.get()))),
                  right.set(middle.get()),
                  end.set(e.min(size, e.add(middle.get(), width.get()))),
                ]),
                a.set(w.loadIndex(from, at(e.select(hasLeft, left.get(), zero)))),
                b.set(w.loadIndex(from, at(e.select(hasRight, right.get(), zero)))),
                first.set(w.load(x, at(a.get()))),
                other.set(w.load(x, at(b.get()))),
                second.set(
                  e.select(
                    e.and(hasRight, e.or(e.le(middle.get(), left.get()), before(other.get(), first.get()))),
                    one,
                    zero,
                  ),
                ),
                w.store(to, at(k), int32(e.select(e.eq(second.get(), one), b.get(), a.get()))),
                left.set(e.add(left.get(), [-1, second.get()], 1)),
                right.set(e.add(right.get(), second.get())),
              ];
            }),
            width.set(e.scale(width.get(), 2)),
          ];
          return [
            w.loop(n, (i) => [w.store(indices, at(i), int32(i))]),
            width.set(one),
            // Merges in pairs of passes, so that the last pass writes to `indices`.
            w.loop(Math.ceil(Math.log2(Math.max(1, n)) / 2), () => [
              ...merge(indices, places),
              ...merge(places, indices),
            ]),
            w.loop(n, (i) => [
              a.set(w.loadIndex(indices, at(i))),
              w.store(values, at(i), w.load(x, at(a.get()))),
              w.store(places, at(a.get()), int32(i)),
            ]),
          ];
        },
      };
    },
  },
};

export interface SortOptions {
  readonly axis?: number;
  readonly descending?: boolean;
}
const KEYS: KeysOf<SortOptions> = { axis: aNumber, descending: aFlag };

/**
 * `axis` (default: the last) in ascending or descending order, and int32 `indices` into x, both of x's shape. Stable:
 * equal elements keep their order in both directions. NaN comes last in both. Gradients flow to the values.
 */
export function sort(x: Tensor, options: SortOptions = {}): { values: Tensor; indices: Tensor } {
  checkOptions('sort', options, KEYS);
  const { axis = -1, descending = false } = options;
  const [values, indices] = emit('sort', [lastAxis('sort', x, axis)], { descending });
  return { values: fromLast(values, axis), indices: fromLast(indices, axis) };
}

/** int32 of x's shape: the order in which `sort` puts the elements of `axis`. */
export const argsort = (x: Tensor, options: SortOptions = {}): Tensor => sort(x, options).indices;
