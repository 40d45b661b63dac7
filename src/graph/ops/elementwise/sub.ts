// a - b, broadcast.
import { emit1 } from '../../tensor.ts';
import { binary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    sub: NoAttrs;
  }
}

/** a - b with broadcasting. */
export const sub = binary({
  // a - b
  name: 'sub',
  grad: ({ needs }, dout) => [dout, needs[1] ? emit1('neg', [dout]) : null],
  expr: (e, [a, b]) => e.op('sub', [a, b]),
  value: ([a, b]) => a - b,
});
