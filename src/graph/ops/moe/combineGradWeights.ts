// Gradient of combine for its weights: for each choice the inner product of its token's gradient and its row (in 16
// lanes, like all sums over a last axis).
import { boundOf, elements } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import type { CombineAttrs } from './combine.ts';
import type { Permutation } from './permute.ts';
import { ifThere, indexAt, segmentsOf } from './routing.ts';
import { unlike } from '../checked.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    combineGradWeights: CombineAttrs;
  }
}

export const combineGradWeightsOp: Op<CombineAttrs> = {
  // [t, j] = sum of dout[t] * rows[inverse[t k + j]]; like gives the shape, order serves the gradient.
  name: 'combineGradWeights',
  keepsRows: true,
  takes: ['floats'],
  unread: [3, 4],
  infer([d, x, , like]) {
    if (d.dtype !== x.dtype) throw unlike('combineGradWeights', d.dtype, x.dtype);
    return [{ dtype: d.dtype, shape: like.shape }];
  },
  grad({ inputs: [d, x, inverse, , order], douts: [g], attrs, needs }) {
    const offsets = d.builder.tensor(segmentsOf('combineGradWeights', x.type).offsets);
    return [
      g && needs[0] ? emit1('combine', [x, inverse, order, g], attrs) : null,
      g && needs[1] ? emit1('combineGradRows', [d, g, order, offsets, inverse], attrs) : null,
      null,
      null,
      null,
    ];
  },
  lower: {
    kind: 'map',
    weight: 2,
    passes: 1,
    at(call, [t, j]) {
      const {
          e,
          inputs: [d, x, inverse],
          outTypes: [o],
          attrs: { gaps },
        } = call,
        k = boundOf(o.shape[1]),
        width = elements(d.type.shape.slice(1));
      const row = indexAt(call, inverse, [e.add([k, t], j)]),
        { dtype } = d.type;
      return e.reduce('sum', 'lanes', width, (i) =>
        ifThere(call, gaps, boundOf(x.type.shape[0]), row, e.const(0, dtype), (r) =>
          e.op('mul', [d.linear(e.add([width, t], i)), x.linear(e.add([width, r], i))]),
        ),
      );
    },
  },
};

/** d [T, ...rest], rows [rows in segments, ...rest], results of `permute` or `admit`, like [T, k] -> [T, k]. */
export const combineGradWeights = (
  d: Tensor,
  rows: Tensor,
  { inverse, order }: Pick<Permutation, 'inverse' | 'order'>,
  like: Tensor,
  { gaps }: CombineAttrs,
): Tensor => emit1('combineGradWeights', [d, rows, inverse, like, order], { ...(gaps && { gaps }) });
