// a * b, broadcast.
import { isFloat } from '../../../base/dtype.ts';
import { lift, emit1, type Tensor } from '../../tensor.ts';
import { elementwise, withOp } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    mul: NoAttrs;
  }
}

const mulOp = elementwise({
  // a * b
  name: 'mul',
  arity: 2,
  grad: ({ inputs: [a, b], needs }, dout) => [
    needs[0] ? emit1('mul', [dout, b]) : null,
    needs[1] ? emit1('mul', [dout, a]) : null,
  ],
  expr: (e, [a, b]) => e.op('mul', [a, b]),
  // Of integers the product itself may have more digits than a float64.
  value: ([a, b], _, { to }) => (isFloat(to) ? a * b : Math.imul(a, b)),
});

/** a * b with broadcasting. */
export const mul = withOp(mulOp, (a: Tensor, b: Tensor | number): Tensor => emit1('mul', [a, lift(a, b)]));
