// The other bool.
import { unary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    logicalNot: NoAttrs;
  }
}

/** Not a, of a bool. */
export const logicalNot = unary({
  // Not a.
  name: 'logicalNot',
  takes: 'bools',
  dtype: () => 'bool',
  expr: (e, [a]) => e.op('not', [a]),
  value: ([a]) => (a === 0 ? 1 : 0),
});
