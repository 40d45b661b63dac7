// The same values in memory of their own.
import { emit1, type Tensor } from '../tensor.ts';
import { elementwise } from './elementwise.ts';

export const copyOp = elementwise({
  name: 'copy', doc: 'a, stored apart from it', arity: 1,
  grad: (_, dout) => [dout],
  expr: (_, [a]) => a,
  value: ([a]) => a,
});

/** `a` in memory of its own: an output or a state that another state's update must not change. */
export const copy = (a: Tensor): Tensor => emit1('copy', [a]);
