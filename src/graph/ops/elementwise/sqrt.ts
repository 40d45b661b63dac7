// Square root.
import { emit1, scalar } from '../../tensor.ts';
import { unary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    sqrt: NoAttrs;
  }
}

/** Square root; its gradient is infinite at 0. */
export const sqrt = unary({
  // Square root of a.
  name: 'sqrt',
  smooth: { from: 0 },
  takes: 'floats',
  weight: 6,
  grad: ({ outputs: [y] }, dout) => [emit1('div', [emit1('mul', [dout, scalar(dout, 0.5)]), y])],
  expr: (e, [a]) => e.op('sqrt', [a]),
  value: ([a]) => Math.sqrt(a),
});
