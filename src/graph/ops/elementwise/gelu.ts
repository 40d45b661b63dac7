// GELU by its tanh approximation (Hendrycks & Gimpel 2016): 0.5 a (1 + tanh(c (a + k a^3))), computed as a
// sigmoid(u(a)), u(a) = 2 c (a + k a^3), which is the same function and keeps its precision where it is nearly 0. The
// exact one is mul(mul(a, 0.5), add(erf(mul(a, sqrt 0.5)), 1)).
import { math64 } from '../../../base/math64.ts';
import type { Expr, Exprs, Scalar } from '../../../kernel/expr.ts';
import { emit1 } from '../../tensor.ts';
import { unary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    gelu: NoAttrs;
  }
}

/** u(a) = a (FIRST + THIRD a^2). */
export const FIRST = 2 * Math.sqrt(2 / Math.PI),
  THIRD = 0.044715 * FIRST;

/** sigmoid(u(a)): one expression, so that a kernel with GELU and its slope computes it once. */
export function gateOf(e: Exprs, a: Expr, dtype: Scalar): Expr {
  const inner = e.op('fma', [e.op('mul', [a, a]), e.const(THIRD, dtype), e.const(FIRST, dtype)]);
  return e.op('sigmoid', [e.op('mul', [a, inner])]);
}

/** GELU, tanh approximation. */
export const gelu = unary({
  // 0.5 a (1 + tanh(sqrt(2/pi) (a + 0.044715 a^3))).
  name: 'gelu',
  takes: 'floats',
  weight: 22,
  grad: ({ inputs: [a] }, dout) => [emit1('mul', [dout, emit1('geluSlope', [a])])],
  expr: (e, [a], dtype) => e.op('mul', [a, gateOf(e, a, dtype)]),
  value: ([a]) => a * math64.sigmoid(a * (FIRST + THIRD * a * a)),
});
