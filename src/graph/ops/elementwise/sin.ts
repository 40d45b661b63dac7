// Sine.
import { emit1 } from '../../tensor.ts';
import { unary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    sin: NoAttrs;
  }
}

/** Sine of radians. */
export const sin = unary({
  // Sin a.
  name: 'sin',
  takes: 'floats',
  weight: 14,
  grad: ({ inputs: [a] }, dout) => [emit1('mul', [dout, emit1('cos', [a])])],
  expr: (e, [a]) => e.op('sin', [a]),
  value: ([a]) => Math.sin(a),
});
