// log(1 + e^a), the smooth form of max(a, 0).
import type { Expr, Exprs } from '../../../kernel/expr.ts';
import { emit1 } from '../../tensor.ts';
import { unary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    softplus: NoAttrs;
  }
}

/**
 * log(1 + x) of a float64 x from 0 to 1 without loss where x is small (Kahan): what 1 + x is rounded to is made good in
 * proportion.
 */
function logOfSum(e: Exprs, x: Expr, sum: Expr, log: Expr): Expr {
  const one = e.const(1, 'float64'),
    rounded = e.op('sub', [sum, one]),
    whole = e.eq(sum, one);
  const safe = e.select(whole, one, rounded);
  return e.select(whole, x, e.op('mul', [log, e.op('div', [x, safe])]));
}

/** log(1 + e^a). */
export const softplus = unary({
  // log(1 + e^a)
  name: 'softplus',
  takes: 'floats',
  weight: 40,
  grad: ({ inputs: [a] }, dout) => [emit1('mul', [dout, emit1('sigmoid', [a])])],
  // max(a, 0) + log(1 + e^-|a|), which does not overflow.
  expr(e, [a], dtype) {
    const one = e.const(1, dtype),
      power = e.op('exp', [e.op('neg', [e.op('abs', [a])])]),
      sum = e.op('add', [power, one]);
    const log = e.op('log', [sum]),
      rest = dtype === 'float64' ? logOfSum(e, power, sum, log) : log;
    return e.op('add', [e.max(a, e.const(0, dtype)), rest]);
  },
  value: ([a]) => Math.max(a, 0) + Math.log1p(Math.exp(-Math.abs(a))),
});
