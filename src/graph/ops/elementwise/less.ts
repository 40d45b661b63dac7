// a < b as bool; no gradient.
import { binary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    less: NoAttrs;
  }
}

/** a < b as bool, with broadcasting. */
export const less = binary({
  // a < b
  name: 'less',
  dtype: () => 'bool',
  expr: (e, [a, b]) => e.lt(a, b),
  value: ([a, b]) => (a < b ? 1 : 0),
});
