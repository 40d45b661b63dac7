// a + b, broadcast.
import { binary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    add: NoAttrs;
  }
}

/** a + b with broadcasting. */
export const add = binary({
  // a + b
  name: 'add',
  grad: (_, dout) => [dout, dout],
  expr: (e, [a, b]) => e.op('add', [a, b]),
  value: ([a, b]) => a + b,
});
