// The result of a mixture-of-experts layer: for each token the sum of its rows, weighted by the gate. It gathers, so
// each sum has one order: choices ascending, one fused multiply-add each.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, elements, showType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { checkVector, ifThere, indexAt, MOST_CHOICES, segmentsOf } from './routing.ts';
import { combineMany } from './combineMany.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    combine: CombineAttrs;
  }
}

/** gaps: choices may be dropped, and rows may be empty. expertRows: as for `dispatch`, for the rows of
 * the gradient. */
export type CombineAttrs = { readonly gaps?: boolean; readonly expertRows?: number };

export const combineOp: Op<CombineAttrs> = {
  // Row t = sum over j of weights[t, j] * rows[inverse[t k + j]], j ascending; order serves the gradient.
  name: 'combine',
  activations: { inputs: [0], outputs: [0] },
  keepsRows: true,
  takes: ['floats'],
  unread: [2],
  infer([x, inverse, order, w], { gaps }) {
    const { bound } = segmentsOf('combine', x),
      choices = elements(w.shape);
    checkVector('combine', 'inverse', inverse, choices);
    checkVector('combine', 'order', order, bound);
    if (w.dtype !== x.dtype || w.shape.length !== 2 || (!gaps && choices !== bound) || boundOf(w.shape[1]) === 0) {
      throw new ShapeError(
        `combine: weights ${showType(w)} do not fit rows ${showType(x)}`,
        'weights are [tokens, choices] of the same dtype',
      );
    }
    return [{ dtype: x.dtype, shape: [w.shape[0], ...x.shape.slice(1)] }];
  },
  grad({ inputs: [x, inverse, order, w], douts: [d], attrs, needs }) {
    if (!d) return [null, null, null, null];
    const offsets = x.builder.tensor(segmentsOf('combine', x.type).offsets);
    return [
      needs[0] ? emit1('combineGradRows', [d, w, order, offsets, inverse], attrs) : null,
      null,
      null,
      needs[3] ? emit1('combineGradWeights', [d, x, inverse, w, order], attrs) : null,
    ];
  },
  lower: {
    kind: 'map',
    weight: 4,
    at(call, [t, ...rest]) {
      const {
          e,
          inputs: [x, inverse, , w],
          attrs: { gaps },
        } = call,
        k = boundOf(w.type.shape[1]),
        dtype = x.type.dtype;
      let sum = e.const(0, dtype);
      for (let j = 0; j < k; j++) {
        const before = sum,
          row = indexAt(call, inverse, [e.add([k, t], j)]);
        sum = ifThere(call, gaps, boundOf(x.type.shape[0]), row, before, (r) =>
          e.op('fma', [w.at([t, e.index(j)]), x.at([r, ...rest]), before]),
        );
      }
      return sum;
    },
  },
};

/**
 * rows [T * k (gaps: any number) in segments, ...rest], the results of `permute` or `admit`, weights [T, k] -> [T,
 * ...rest].
 */
export function combine(
  rows: Tensor,
  inverse: Tensor,
  order: Tensor,
  weights: Tensor,
  { gaps, expertRows }: CombineAttrs = {},
): Tensor {
  if (boundOf(weights.shape[1]) > MOST_CHOICES) return combineMany(rows, inverse, order, weights);
  return emit1('combine', [rows, inverse, order, weights], {
    ...(gaps && { gaps }),
    ...(expertRows && { expertRows }),
  });
}
