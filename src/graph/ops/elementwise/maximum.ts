// The larger of two; NaN if either is NaN. Where they are equal the gradient goes to the first.
import { emit1, lift, scalar, type Tensor } from '../../tensor.ts';
import { elementwise, withOp } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    maximum: NoAttrs;
  }
}

const maximumOp = elementwise({
  // max(a, b)
  name: 'maximum',
  arity: 2,
  weight: 2,
  grad: ({ inputs: [a, b] }, dout) => {
    const second = emit1('less', [a, b]),
      none = scalar(dout, 0);
    return [emit1('where', [second, none, dout]), emit1('where', [second, dout, none])];
  },
  // a where it is >= b or NaN, else b (which may be NaN).
  expr: (e, [a, b]) => e.select(e.le(b, a), a, e.select(e.op('ne', [a, a]), a, b)),
  value: ([a, b]) => Math.max(a, b),
});

/** The larger of two, with broadcasting; NaN if either is NaN. */
export const maximum = withOp(maximumOp, (a: Tensor, b: Tensor | number): Tensor => emit1('maximum', [a, lift(a, b)]));
