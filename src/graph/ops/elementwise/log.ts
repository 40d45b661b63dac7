// Natural logarithm.
import { emit1 } from '../../tensor.ts';
import { unary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    log: NoAttrs;
  }
}

/** Natural logarithm; NaN below 0. */
export const log = unary({
  // Ln a.
  name: 'log',
  smooth: { from: 0 },
  takes: 'floats',
  weight: 14,
  grad: ({ inputs: [a] }, dout) => [emit1('div', [dout, a])],
  expr: (e, [a]) => e.op('log', [a]),
  value: ([a]) => Math.log(a),
});
