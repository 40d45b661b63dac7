// Hyperbolic tangent.
import { math64 } from '../../../base/math64.ts';
import { emit1, scalar } from '../../tensor.ts';
import { unary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    tanh: NoAttrs;
  }
}

/** Hyperbolic tangent. */
export const tanh = unary({
  // Tanh a.
  name: 'tanh',
  takes: 'floats',
  weight: 16,
  grad: ({ outputs: [y] }, dout) => [emit1('mul', [dout, emit1('sub', [scalar(y, 1), emit1('mul', [y, y])])])],
  expr: (e, [a]) => e.op('tanh', [a]),
  value: ([a]) => math64.tanh(a),
});
