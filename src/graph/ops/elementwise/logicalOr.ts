// Whether either of two bools.
import { emit1, type Tensor } from '../../tensor.ts';
import { elementwise, withOp } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    logicalOr: NoAttrs;
  }
}

const logicalOrOp = elementwise({
  // a or b
  name: 'logicalOr',
  arity: 2,
  takes: 'bools',
  dtype: () => 'bool',
  expr: (e, [a, b]) => e.or(a, b),
  value: ([a, b]) => (a !== 0 || b !== 0 ? 1 : 0),
});

/** a or b, of bools, with broadcasting. */
export const logicalOr = withOp(logicalOrOp, (a: Tensor, b: Tensor): Tensor => emit1('logicalOr', [a, b]));
