// Brings rows back to their tokens: the gradient of dispatch. It gathers rather than scatters, so the sum of each token
// has one order: choices ascending.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, sameShape, showType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { checkVector, ifThere, indexAt, segmentsOf } from './routing.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    collect: CollectAttrs;
  }
}

/** k: choices per token. gaps: choices may be dropped. */
export type CollectAttrs = { readonly k: number; readonly gaps?: boolean };

export const collectOp: Op<CollectAttrs> = {
  // Row t = sum over j < k of rows[inverse[t k + j]], j ascending; order serves the gradient, like gives the shape.
  name: 'collect',
  keepsRows: true,
  takes: ['numbers'],
  unread: [2, 3],
  infer([x, inverse, order, like], { k, gaps }) {
    const { bound } = segmentsOf('collect', x);
    checkVector('collect', 'inverse', inverse, gaps ? undefined : bound);
    checkVector('collect', 'order', order, bound);
    if (
      like.shape.length === 0 ||
      boundOf(like.shape[0]) * k !== boundOf(inverse.shape[0]) ||
      !sameShape(like.shape.slice(1), x.shape.slice(1))
    ) {
      throw new ShapeError(`collect: ${showType(x)} with ${k} rows a token does not make ${showType(like)}`);
    }
    return [{ dtype: x.dtype, shape: like.shape }];
  },
  grad({ inputs: [x, inverse, order], douts: [d], attrs }) {
    const offsets = x.builder.tensor(segmentsOf('collect', x.type).offsets);
    return [d && emit1('dispatch', [d, order, offsets, inverse], attrs), null, null, null];
  },
  lower: {
    kind: 'map',
    weight: 2,
    at(call, [t, ...rest]) {
      const {
          e,
          inputs: [x, inverse],
          attrs: { k, gaps },
        } = call,
        zero = e.const(0, x.type.dtype);
      const rows = Array.from({ length: k }, (_, j) =>
        ifThere(call, gaps, boundOf(x.type.shape[0]), indexAt(call, inverse, [e.add([k, t], j)]), zero, (r) =>
          x.at([r, ...rest]),
        ),
      );
      return rows.reduce((a, b) => e.op('add', [a, b]));
    },
  },
};

/**
 * rows [T * k in segments, ...rest], results of `permute`, like [T, ...rest] (its values are not read) -> [T, ...rest].
 */
export const collect = (
  rows: Tensor,
  inverse: Tensor,
  order: Tensor,
  like: Tensor,
  { k, gaps }: CollectAttrs,
): Tensor => emit1('collect', [rows, inverse, order, like], { k, ...(gaps && { gaps }) });
