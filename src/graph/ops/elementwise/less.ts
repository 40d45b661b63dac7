// a < b as bool; no gradient.
import { emit1, lift, type Tensor } from '../../tensor.ts';
import { elementwise, withOp } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    less: NoAttrs;
  }
}

const lessOp = elementwise({
  // a < b
  name: 'less',
  arity: 2,
  dtype: () => 'bool',
  expr: (e, [a, b]) => e.lt(a, b),
  value: ([a, b]) => (a < b ? 1 : 0),
});

/** a < b as bool, with broadcasting. */
export const less = withOp(lessOp, (a: Tensor, b: Tensor | number): Tensor => emit1('less', [a, lift(a, b)]));
