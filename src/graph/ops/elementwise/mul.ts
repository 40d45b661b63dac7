// a * b, broadcast.
import { isFloat } from '../../../base/dtype.ts';
import { emit1 } from '../../tensor.ts';
import { binary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    mul: NoAttrs;
  }
}

/** a * b with broadcasting. */
export const mul = binary({
  // a * b
  name: 'mul',
  grad: ({ inputs: [a, b], needs }, dout) => [
    needs[0] ? emit1('mul', [dout, b]) : null,
    needs[1] ? emit1('mul', [dout, a]) : null,
  ],
  expr: (e, [a, b]) => e.op('mul', [a, b]),
  // Of integers the product itself may have more digits than a float64.
  value: ([a, b], _, { to }) => (isFloat(to) ? a * b : Math.imul(a, b)),
});
