// -a.
import { emit1, type Tensor } from '../../tensor.ts';
import { elementwise, withOp } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    neg: NoAttrs;
  }
}

const negOp = elementwise({
  // -a
  name: 'neg',
  arity: 1,
  grad: (_, dout) => [emit1('neg', [dout])],
  expr: (e, [a]) => e.op('neg', [a]),
  value: ([a]) => -a,
});

/** -a. */
export const neg = withOp(negOp, (a: Tensor): Tensor => emit1('neg', [a]));
