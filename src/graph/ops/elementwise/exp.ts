// e to the a.
import { emit1 } from '../../tensor.ts';
import { unary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    exp: NoAttrs;
  }
}

/** e^a. */
export const exp = unary({
  // e^a
  name: 'exp',
  takes: 'floats',
  weight: 12,
  grad: ({ outputs: [y] }, dout) => [emit1('mul', [dout, y])],
  expr: (e, [a]) => e.op('exp', [a]),
  value: ([a]) => Math.exp(a),
});
