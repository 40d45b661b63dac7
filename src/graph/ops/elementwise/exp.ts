// e to the a.
import { emit1, type Tensor } from '../../tensor.ts';
import { elementwise, withOp } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    exp: NoAttrs;
  }
}

const expOp = elementwise({
  // e^a
  name: 'exp',
  arity: 1,
  takes: 'floats',
  weight: 12,
  grad: ({ outputs: [y] }, dout) => [emit1('mul', [dout, y])],
  expr: (e, [a]) => e.op('exp', [a]),
  value: ([a]) => Math.exp(a),
});

/** e^a. */
export const exp = withOp(expOp, (a: Tensor): Tensor => emit1('exp', [a]));
