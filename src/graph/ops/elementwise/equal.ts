// a == b as bool; no gradient.
import { binary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    equal: NoAttrs;
  }
}

/** a == b as bool, with broadcasting; NaN equals nothing. */
export const equal = binary({
  // a == b
  name: 'equal',
  takes: 'any',
  dtype: () => 'bool',
  expr: (e, [a, b]) => e.eq(a, b),
  value: ([a, b]) => (a === b ? 1 : 0),
});
