// a / b, broadcast.
import { lift, emit1, type Tensor } from '../tensor.ts';
import { elementwise } from './elementwise.ts';

export const divOp = elementwise({
  // a / b
  name: 'div', arity: 2, weight: 4,
  grad: ({ inputs: [, b], outputs: [y], needs }, dout) => {
    const da = emit1('div', [dout, b]);
    return [da, needs[1] ? emit1('neg', [emit1('mul', [da, y])]) : null];
  },
  expr: (e, [a, b], dtype) => e.op('div', [a, b], dtype),
  value: ([a, b]) => a / b,
});

/** a / b with broadcasting. */
export const div = (a: Tensor, b: Tensor | number): Tensor => emit1('div', [a, lift(a, b)]);
