// The largest element up to each element of a row, and its index: a scan over the last axis. From the first NaN on, the
// result is NaN.
import { isFloat, leastOf } from '../../../base/dtype.ts';
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, elements, showType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit, emit1, type Tensor } from '../../tensor.ts';
import { fromLast, lastAxis } from '../shape/arrange.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    cumulativeMax: NoAttrs;
  }
}

export const cumulativeMaxOp: Op = {
  // Largest element up to each one of the last axis; its index, the first of several.
  name: 'cumulativeMax',
  keepsRows: true,
  infer([x]) {
    if (typeof x.shape.at(-1) !== 'number' || !(isFloat(x.dtype) || x.dtype === 'int32')) {
      throw new ShapeError(
        `cumulativeMax: needs floats or int32 and a last dimension of fixed size, got ${showType(x)}`,
      );
    }
    return [x, { dtype: 'int32', shape: x.shape }];
  },
  grad: ({ inputs: [x], outputs: [, index], douts: [d] }) => [d && emit1('putAlong', [index, d, x])],
  lower: {
    kind: 'loops',
    build({ e, k: w, inTypes: [type], inputs: [x], outputs: [values, indices] }) {
      const { dtype, shape } = type,
        n = boundOf(shape[shape.length - 1]);
      const rows = shape.length === 1 ? e.index(1) : e.scale(w.extent(type, 0), elements(shape.slice(1, -1)));
      return {
        grid: { extent: rows, work: Math.max(1, n) },
        body(g) {
          const best = w.scalar(dtype),
            where = w.scalar('int32'),
            value = w.scalar(dtype),
            goes = w.scalar('int32');
          return [
            best.set(e.const(leastOf(dtype), dtype)),
            where.set(e.const(0, 'int32')),
            w.loop(n, (c) => {
              const at = e.add([n, g], c),
                v = value.get(),
                b = best.get(),
                yes = e.eq(goes.get(), e.const(1, 'int32'));
              const nan = e.and(e.op('ne', [v, v]), e.eq(b, b));
              return [
                value.set(w.load(x, at)),
                goes.set(e.cast(e.or(e.lt(b, v), nan), 'int32')),
                best.set(e.select(yes, v, b)),
                where.set(e.select(yes, e.cast(c, 'int32'), where.get())),
                w.store(values, at, best.get()),
                w.store(indices, at, where.get()),
              ];
            }),
          ];
        },
      };
    },
  },
};

/**
 * The largest element up to each one along `axis` (default: the last), and its int32 index (the first of several), both
 * of x's shape; NaN from the first NaN on.
 */
export function cumulativeMax(x: Tensor, axis = -1): { values: Tensor; indices: Tensor } {
  const [values, indices] = emit('cumulativeMax', [lastAxis('cumulativeMax', x, axis)]);
  return { values: fromLast(values, axis), indices: fromLast(indices, axis) };
}
