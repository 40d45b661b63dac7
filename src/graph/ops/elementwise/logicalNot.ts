// The other bool.
import { emit1, type Tensor } from '../../tensor.ts';
import { elementwise, withOp } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    logicalNot: NoAttrs;
  }
}

const logicalNotOp = elementwise({
  // Not a.
  name: 'logicalNot',
  arity: 1,
  takes: 'bools',
  dtype: () => 'bool',
  expr: (e, [a]) => e.op('not', [a]),
  value: ([a]) => (a === 0 ? 1 : 0),
});

/** Not a, of a bool. */
export const logicalNot = withOp(logicalNotOp, (a: Tensor): Tensor => emit1('logicalNot', [a]));
