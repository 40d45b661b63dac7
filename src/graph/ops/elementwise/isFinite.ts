// Whether a number is neither infinite nor NaN.
import { emit1, type Tensor } from '../../tensor.ts';
import { elementwise, withOp } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    isFinite: NoAttrs;
  }
}

const isFiniteOp = elementwise({
  // Whether a is finite.
  name: 'isFinite',
  arity: 1,
  takes: 'floats',
  dtype: () => 'bool',
  expr: (e, [a]) => e.op('isfinite', [a]),
  value: ([a]) => (Number.isFinite(a) ? 1 : 0),
});

/** bool: whether each element is finite. */
export const isFinite = withOp(isFiniteOp, (a: Tensor): Tensor => emit1('isFinite', [a]));
