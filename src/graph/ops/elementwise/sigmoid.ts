// The logistic function.
import { math64 } from '../../../base/math64.ts';
import { emit1, scalar } from '../../tensor.ts';
import { unary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    sigmoid: NoAttrs;
  }
}

/** 1 / (1 + e^-a). */
export const sigmoid = unary({
  // 1 / (1 + e^-a)
  name: 'sigmoid',
  takes: 'floats',
  weight: 16,
  grad: ({ outputs: [y] }, dout) => [emit1('mul', [dout, emit1('mul', [y, emit1('sub', [scalar(y, 1), y])])])],
  expr: (e, [a]) => e.op('sigmoid', [a]),
  value: ([a]) => math64.sigmoid(a),
});
