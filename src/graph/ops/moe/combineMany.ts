// combine for many choices per token (experts choose tokens: a token then has one choice for each expert, most of them
// not taken). Choices ascending; each product is rounded and then added; a choice without a row adds 0.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, elements, showType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { checkVector, ifThere, indexAt, segmentsOf } from './routing.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    combineMany: NoAttrs;
  }
}

export const combineManyOp: Op = {
  // Row t = sum over j of weights[t, j] * rows[inverse[t k + j]] where there is such a row; order serves the gradient.
  name: 'combineMany',
  activations: { inputs: [0], outputs: [0] },
  keepsRows: true,
  takes: ['floats'],
  unread: [2],
  infer([x, inverse, order, w]) {
    const { bound } = segmentsOf('combineMany', x);
    checkVector('combineMany', 'inverse', inverse, elements(w.shape));
    checkVector('combineMany', 'order', order, bound);
    if (w.dtype !== x.dtype || w.shape.length !== 2)
      throw new ShapeError(`combineMany: weights ${showType(w)} do not fit rows ${showType(x)}`);
    return [{ dtype: x.dtype, shape: [w.shape[0], ...x.shape.slice(1)] }];
  },
  grad({ inputs: [x, inverse, order, w], douts: [d], needs }) {
    if (!d) return [null, null, null, null];
    const offsets = x.builder.tensor(segmentsOf('combineMany', x.type).offsets),
      gaps = { gaps: true };
    return [
      needs[0] ? emit1('combineGradRows', [d, w, order, offsets, inverse], gaps) : null,
      null,
      null,
      needs[3] ? emit1('combineGradWeights', [d, x, inverse, w, order], gaps) : null,
    ];
  },
  lower: {
    kind: 'map',
    weight: 4,
    passes: 1,
    at(call, [t, ...rest]) {
      const {
          e,
          inputs: [x, inverse, , w],
        } = call,
        k = boundOf(w.type.shape[1]),
        { dtype } = x.type;
      return e.reduce('sum', 'serial', k, (j) =>
        ifThere(
          call,
          true,
          boundOf(x.type.shape[0]),
          indexAt(call, inverse, [e.add([k, t], j)]),
          e.const(0, dtype),
          (r) => e.op('mul', [w.at([t, j]), x.at([r, ...rest])]),
        ),
      );
    },
  },
};

/** rows [rows in segments, ...rest], the results of `admit`, weights [T, k] -> [T, ...rest]. */
export const combineMany = (rows: Tensor, inverse: Tensor, order: Tensor, weights: Tensor): Tensor =>
  emit1('combineMany', [rows, inverse, order, weights]);
