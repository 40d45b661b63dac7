// max(a, 0); its gradient is 0 at 0.
import { emit1, scalar } from '../../tensor.ts';
import { unary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    relu: NoAttrs;
  }
}

/** max(a, 0). */
export const relu = unary({
  // max(a, 0)
  name: 'relu',
  smooth: { kinks: [0] },
  // The result says it as well as the input, and is kept anyway.
  grad: ({ outputs: [y] }, dout) => [emit1('where', [emit1('less', [scalar(y, 0), y]), dout, scalar(dout, 0)])],
  expr: (e, [a], dtype) => e.select(e.lt(e.const(0, dtype), a), a, e.op('mul', [a, e.const(0, dtype)])),
  value: ([a]) => (a > 0 ? a : a * 0), // NaN and -inf are not hidden
});
