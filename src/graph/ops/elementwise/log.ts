// Natural logarithm.
import { emit1, type Tensor } from '../../tensor.ts';
import { elementwise, withOp } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    log: NoAttrs;
  }
}

const logOp = elementwise({
  // Ln a.
  name: 'log',
  arity: 1,
  smooth: { from: 0 },
  takes: 'floats',
  weight: 14,
  grad: ({ inputs: [a] }, dout) => [emit1('div', [dout, a])],
  expr: (e, [a]) => e.op('log', [a]),
  value: ([a]) => Math.log(a),
});

/** Natural logarithm; NaN below 0. */
export const log = withOp(logOp, (a: Tensor): Tensor => emit1('log', [a]));
