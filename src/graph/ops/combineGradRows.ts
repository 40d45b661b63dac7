// Gradient of combine to its rows: each row gets its token's gradient times its choice's weight. Its own gradients are combine and
// combineGradWeights again.
import { boundOf, elements } from '../../base/shape.ts';
import type { Op } from '../op.ts';
import { emit1 } from '../tensor.ts';
import { indexAt, rowsDim } from './routing.ts';

export const combineGradRowsOp: Op = {
  name: 'combineGradRows', doc: 'row r = weights[order[r]] * dout[order[r] / k], in the segments of offsets; inverse serves the gradient', unread: [3, 4],
  infer: ([d, , order, offsets], _, ids) => [{ dtype: d.dtype, shape: [rowsDim('combineGradRows', order, offsets, ids[3]), ...d.shape.slice(1)] }],
  grad: ({ inputs: [d, w, order, , inverse], douts: [g], needs }) => [
    g && needs[0] ? emit1('combine', [g, inverse, order, w]) : null,
    g && needs[1] ? emit1('combineGradWeights', [d, g, inverse, w, order]) : null, null, null, null],
  lower: { kind: 'map', weight: 1, at(call, [r, ...rest]) {
    const { e, inputs: [d, w, order] } = call, choice = indexAt(call, order, [r]);
    return e.op('mul', [w.linear(choice), d.at([e.div(choice, boundOf(w.type.shape[1])), ...rest])], d.type.dtype);
  } },
  reference({ inputs: [d, w, order], inTypes: [, tw], outTypes: [o], rows }) {
    const width = elements(o.shape.slice(1)), k = boundOf(tw.shape[1]), out = new Float64Array(elements(o.shape)).fill(NaN);
    for (let r = 0; r < rows(o); r++) {
      for (let i = 0; i < width; i++) out[r * width + i] = w[order[r]] * d[Math.floor(order[r] / k) * width + i];
    }
    return [out];
  },
};
