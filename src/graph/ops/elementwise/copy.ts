// The same values in memory of their own: made by the compiler for outputs and states that another state's update must
// not change.
import { elementwise } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    copy: NoAttrs;
  }
}

export const copyOp = elementwise({
  // a, stored apart from it
  name: 'copy',
  arity: 1,
  takes: 'stored',
  grad: (_, dout) => [dout],
  expr: (_, [a]) => a,
  value: ([a]) => a,
});
