// Gradient of combine for its rows: each row gets its token's gradient times the weight of its choice. Its own
// gradients are combine and combineGradWeights.
import { boundOf, elements } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1 } from '../../tensor.ts';
import type { CombineAttrs } from './combine.ts';
import { ifThere, indexAt, rowsDim } from './routing.ts';
import { unlike } from '../checked.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    combineGradRows: CombineAttrs;
  }
}

export const combineGradRowsOp: Op<CombineAttrs> = {
  // Row r = weights[order[r]] * dout[order[r] / k], in the segments of offsets; inverse serves the gradient.
  name: 'combineGradRows',
  takes: ['floats'],
  unread: [3, 4],
  infer([d, w, order, offsets], _, ids) {
    if (d.dtype !== w.dtype) throw unlike('combineGradRows', d.dtype, w.dtype);
    return [
      {
        dtype: d.dtype,
        shape: [rowsDim('combineGradRows', order, offsets, ids[3], elements(w.shape)), ...d.shape.slice(1)],
      },
    ];
  },
  grad: ({ inputs: [d, w, order, , inverse], douts: [g], attrs, needs }) => [
    g && needs[0] ? emit1('combine', [g, inverse, order, w], attrs) : null,
    g && needs[1] ? emit1('combineGradWeights', [d, g, inverse, w, order], attrs) : null,
    null,
    null,
    null,
  ],
  lower: {
    kind: 'map',
    weight: 1,
    stored: ({ expertRows = 0 }, _, { storedRows }) => expertRows >= storedRows,
    at(call, [r, ...rest]) {
      const {
          e,
          inputs: [d, w, order],
          attrs: { gaps },
        } = call,
        { dtype } = d.type;
      return ifThere(call, gaps, elements(w.type.shape), indexAt(call, order, [r]), e.const(0, dtype), (choice) =>
        e.op('mul', [w.linear(choice), d.at([e.div(choice, boundOf(w.type.shape[1])), ...rest])]),
      );
    },
  },
};
