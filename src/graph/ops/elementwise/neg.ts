// -a.
import { emit1, type Tensor } from '../../tensor.ts';
import { elementwise } from './elementwise.ts';

export const negOp = elementwise({
  // -a
  name: 'neg',
  arity: 1,
  grad: (_, dout) => [emit1('neg', [dout])],
  expr: (e, [a], dtype) => e.op('neg', [a], dtype),
  value: ([a]) => -a,
});

/** -a. */
export const neg = (a: Tensor): Tensor => emit1('neg', [a]);
