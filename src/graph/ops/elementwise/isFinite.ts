// Whether a number is neither infinite nor NaN.
import { unary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    isFinite: NoAttrs;
  }
}

/** bool: whether each element is finite. */
export const isFinite = unary({
  // Whether a is finite.
  name: 'isFinite',
  takes: 'floats',
  dtype: () => 'bool',
  expr: (e, [a]) => e.op('isfinite', [a]),
  value: ([a]) => (Number.isFinite(a) ? 1 : 0),
});
