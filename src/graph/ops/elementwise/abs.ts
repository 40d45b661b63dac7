// Absolute value; its gradient is 0 at 0.
import { emit1, scalar } from '../../tensor.ts';
import { unary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    abs: NoAttrs;
  }
}

/** |a|; its gradient is 0 at 0. */
export const abs = unary({
  // |a|
  name: 'abs',
  smooth: { kinks: [0] },
  weight: 1,
  grad: ({ inputs: [a] }, dout) => {
    const zero = scalar(a, 0),
      none = scalar(dout, 0);
    return [
      emit1('where', [
        emit1('less', [zero, a]),
        dout,
        emit1('where', [emit1('less', [a, zero]), emit1('neg', [dout]), none]),
      ]),
    ];
  },
  expr: (e, [a]) => e.op('abs', [a]),
  value: ([a]) => Math.abs(a),
});
