// The index of the largest element of each row: the first of several. NaN counts as the largest, as for max.
import { ShapeError } from '../../../base/errors.ts';
import { isFloat } from '../../../base/dtype.ts';
import { boundOf, showType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, scalar, type Tensor } from '../../tensor.ts';
import { lastAxis } from '../shape/arrange.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    argMax: NoAttrs;
  }
}

export const argMaxOp: Op = {
  // Index of the largest element over the last axis, the first of several; NaN is largest.
  name: 'argMax',
  keepsRows: true,
  takes: ['numbers'],
  infer([x]) {
    const n = x.shape.at(-1);
    if (typeof n !== 'number' || n === 0)
      throw new ShapeError(`argMax: needs numbers and a last dimension of at least 1, got ${showType(x)}`);
    return [{ dtype: 'int32', shape: x.shape.slice(0, -1) }];
  },
  lower: {
    kind: 'map',
    weight: 4,
    passes: 2,
    at({ e, inputs: [x] }, index) {
      const n = boundOf(x.type.shape[index.length]),
        max = e.reduce('max', 'lanes', n, (c) => x.at([...index, c]));
      // With indices counted from the end, the first of several has the largest index.
      const left = e.reduce('max', 'lanes', n, (c) => {
        const v = x.at([...index, c]),
          hit = e.or(e.eq(v, max), e.op('ne', [v, v]));
        return e.select(hit, e.cast(e.add([-1, c], n), 'int32'), e.const(0, 'int32'));
      });
      return e.op('sub', [e.const(n, 'int32'), left]);
    },
  },
};

/**
 * int32, `axis` (the last by default) removed: the index of the largest element, the first of several; that of the
 * first NaN if there is one.
 */
export const argMax = (x: Tensor, axis = -1): Tensor => emit1('argMax', [lastAxis('argMax', x, axis)]);

/**
 * int32, `axis` (the last by default) removed: the index of the smallest element, the first of several; that of the
 * first NaN if there is one.
 */
export const argMin = (x: Tensor, axis = -1): Tensor => argMax(downwards(x), axis);

/** Reverses the order of numbers. For int32 it is -1 - x, which also works for the smallest integer. */
export const downwards = (x: Tensor): Tensor =>
  isFloat(x.dtype) ? emit1('neg', [x]) : emit1('sub', [scalar(x, x.dtype === 'uint32' ? 0xffffffff : -1), x]);
