// a - b, broadcast.
import { lift, emit1, type Tensor } from '../../tensor.ts';
import { elementwise, withOp } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    sub: NoAttrs;
  }
}

const subOp = elementwise({
  // a - b
  name: 'sub',
  arity: 2,
  grad: ({ needs }, dout) => [dout, needs[1] ? emit1('neg', [dout]) : null],
  expr: (e, [a, b]) => e.op('sub', [a, b]),
  value: ([a, b]) => a - b,
});

/** a - b with broadcasting. */
export const sub = withOp(subOp, (a: Tensor, b: Tensor | number): Tensor => emit1('sub', [a, lift(a, b)]));
