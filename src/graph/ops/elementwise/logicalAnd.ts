// Whether both of two bools.
import { emit1, type Tensor } from '../../tensor.ts';
import { elementwise, withOp } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    logicalAnd: NoAttrs;
  }
}

const logicalAndOp = elementwise({
  // a and b
  name: 'logicalAnd',
  arity: 2,
  takes: 'bools',
  dtype: () => 'bool',
  expr: (e, [a, b]) => e.and(a, b),
  value: ([a, b]) => (a !== 0 && b !== 0 ? 1 : 0),
});

/** a and b, of bools, with broadcasting. */
export const logicalAnd = withOp(logicalAndOp, (a: Tensor, b: Tensor): Tensor => emit1('logicalAnd', [a, b]));
