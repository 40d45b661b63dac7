// max(a, 0); its gradient is 0 at 0.
import { emit1, scalar, type Tensor } from '../../tensor.ts';
import { elementwise, withOp } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    relu: NoAttrs;
  }
}

const reluOp = elementwise({
  // max(a, 0)
  name: 'relu',
  arity: 1,
  smooth: { kinks: [0] },
  // The result says it as well as the input, and is kept anyway.
  grad: ({ outputs: [y] }, dout) => [emit1('where', [emit1('less', [scalar(y, 0), y]), dout, scalar(dout, 0)])],
  expr: (e, [a], dtype) => e.select(e.lt(e.const(0, dtype), a), a, e.op('mul', [a, e.const(0, dtype)])),
  value: ([a]) => (a > 0 ? a : a * 0), // NaN and -inf are not hidden
});

/** max(a, 0). */
export const relu = withOp(reluOp, (a: Tensor): Tensor => emit1('relu', [a]));
