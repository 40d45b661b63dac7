// a + b, broadcast.
import { lift, emit1, type Tensor } from '../../tensor.ts';
import { elementwise, withOp } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    add: NoAttrs;
  }
}

const addOp = elementwise({
  // a + b
  name: 'add',
  arity: 2,
  grad: (_, dout) => [dout, dout],
  expr: (e, [a, b]) => e.op('add', [a, b]),
  value: ([a, b]) => a + b,
});

/** a + b with broadcasting. */
export const add = withOp(addOp, (a: Tensor, b: Tensor | number): Tensor => emit1('add', [a, lift(a, b)]));
