// Square root.
import { emit1, scalar, type Tensor } from '../../tensor.ts';
import { elementwise, withOp } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    sqrt: NoAttrs;
  }
}

const sqrtOp = elementwise({
  // Square root of a.
  name: 'sqrt',
  arity: 1,
  smooth: { from: 0 },
  takes: 'floats',
  weight: 6,
  grad: ({ outputs: [y] }, dout) => [emit1('div', [emit1('mul', [dout, scalar(dout, 0.5)]), y])],
  expr: (e, [a]) => e.op('sqrt', [a]),
  value: ([a]) => Math.sqrt(a),
});

/** Square root; its gradient is infinite at 0. */
export const sqrt = withOp(sqrtOp, (a: Tensor): Tensor => emit1('sqrt', [a]));
