// Absolute value; its gradient is 0 at 0.
import { emit1, scalar, type Tensor } from '../../tensor.ts';
import { elementwise, withOp } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    abs: NoAttrs;
  }
}

const absOp = elementwise({
  // |a|
  name: 'abs',
  arity: 1,
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

/** |a|; its gradient is 0 at 0. */
export const abs = withOp(absOp, (a: Tensor): Tensor => emit1('abs', [a]));
