// Sends tokens to experts: the rows of all experts one after the other, each a copy of its token. If a matrix product
// reads them, they are not written to memory: the product gathers its rows while it packs them.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, showType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, full, type Tensor } from '../../tensor.ts';
import { fullRows } from '../create/rows.ts';
import { combineMany } from './combineMany.ts';
import { checkVector, ifThere, indexAt, MOST_CHOICES, rowsDim } from './routing.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    dispatch: DispatchAttrs;
  }
}

/**
 * k: choices per token. gaps: rows may be empty, and choices dropped. expertRows: how many rows an expert usually has;
 * lowering decides by it whether rows are written to memory once, or gathered by each product that reads them.
 */
export type DispatchAttrs = { readonly k: number; readonly gaps?: boolean; readonly expertRows?: number };

export const dispatchOp: Op<DispatchAttrs> = {
  // Row r = x[order[r] / k], in the segments of offsets; inverse serves the gradient.
  name: 'dispatch',
  takes: ['stored'],
  moves: 'first',
  unread: [2, 3],
  infer([x, order, offsets, inverse], { k, gaps }, ids) {
    checkVector('dispatch', 'inverse', inverse);
    if (!Number.isInteger(k) || k < 1)
      throw new ShapeError(`dispatch: k must be a whole number of at least 1, got ${String(k)}`);
    const choices = boundOf(inverse.shape[0]),
      rows = rowsDim('dispatch', order, offsets, ids[2], choices);
    if (x.shape.length === 0 || boundOf(x.shape[0]) * k !== choices || (!gaps && rows.bound !== choices)) {
      throw new ShapeError(
        `dispatch: ${showType(x)} with ${k} choices a row does not make ${choices} choices in ` + `${rows.bound} rows`,
      );
    }
    return [{ dtype: x.dtype, shape: [rows, ...x.shape.slice(1)] }];
  },
  grad({ inputs: [x, order, , inverse], douts: [d], attrs }) {
    if (!d || attrs.k <= MOST_CHOICES) return [d && emit1('collect', [d, inverse, order, x], attrs), null, null, null];
    const [rows] = x.shape,
      ones = typeof rows === 'number' ? full(x, [rows, attrs.k], 1) : fullRows(x, attrs.k, 1);
    return [combineMany(d, inverse, order, ones), null, null, null];
  },
  lower: {
    kind: 'map',
    weight: 0,
    stored: ({ expertRows = 0 }, _, { storedRows }) => expertRows >= storedRows,
    at(call, [r, ...rest]) {
      const {
        e,
        inputs: [x, order],
        attrs: { k, gaps },
      } = call;
      return ifThere(call, gaps, boundOf(x.type.shape[0]), indexAt(call, order, [r]), e.const(0, x.type.dtype), (c) =>
        x.at([e.div(c, k), ...rest]),
      );
    },
  },
};

/** x [T, ...rest], the results of `permute` or (gaps) `admit` -> [T * k or other rows in segments, ...rest]. */
export const dispatch = (
  x: Tensor,
  order: Tensor,
  offsets: Tensor,
  inverse: Tensor,
  { k, gaps, expertRows }: DispatchAttrs,
): Tensor =>
  emit1('dispatch', [x, order, offsets, inverse], { k, ...(gaps && { gaps }), ...(expertRows && { expertRows }) });
