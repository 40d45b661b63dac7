// -a.
import { emit1 } from '../../tensor.ts';
import { unary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    neg: NoAttrs;
  }
}

/** -a. */
export const neg = unary({
  // -a
  name: 'neg',
  grad: (_, dout) => [emit1('neg', [dout])],
  expr: (e, [a]) => e.op('neg', [a]),
  value: ([a]) => -a,
});
