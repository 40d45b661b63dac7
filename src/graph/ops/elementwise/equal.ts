// a == b as bool; no gradient.
import { emit1, lift, type Tensor } from '../../tensor.ts';
import { elementwise, withOp } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    equal: NoAttrs;
  }
}

const equalOp = elementwise({
  // a == b
  name: 'equal',
  arity: 2,
  takes: 'any',
  dtype: () => 'bool',
  expr: (e, [a, b]) => e.eq(a, b),
  value: ([a, b]) => (a === b ? 1 : 0),
});

/** a == b as bool, with broadcasting; NaN equals nothing. */
export const equal = withOp(equalOp, (a: Tensor, b: Tensor | number): Tensor => emit1('equal', [a, lift(a, b)]));
