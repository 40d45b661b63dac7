// Hyperbolic tangent.
import { math64 } from '../../../base/math64.ts';
import { emit1, scalar, type Tensor } from '../../tensor.ts';
import { elementwise, withOp } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    tanh: NoAttrs;
  }
}

const tanhOp = elementwise({
  // Tanh a.
  name: 'tanh',
  arity: 1,
  takes: 'floats',
  weight: 16,
  grad: ({ outputs: [y] }, dout) => [emit1('mul', [dout, emit1('sub', [scalar(y, 1), emit1('mul', [y, y])])])],
  expr: (e, [a]) => e.op('tanh', [a]),
  value: ([a]) => math64.tanh(a),
});

/** Hyperbolic tangent. */
export const tanh = withOp(tanhOp, (a: Tensor): Tensor => emit1('tanh', [a]));
