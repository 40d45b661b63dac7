// Cosine.
import { emit1 } from '../../tensor.ts';
import { unary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    cos: NoAttrs;
  }
}

/** Cosine of radians. */
export const cos = unary({
  // Cos a.
  name: 'cos',
  takes: 'floats',
  weight: 14,
  grad: ({ inputs: [a] }, dout) => [emit1('neg', [emit1('mul', [dout, emit1('sin', [a])])])],
  expr: (e, [a]) => e.op('cos', [a]),
  value: ([a]) => Math.cos(a),
});
