// a / b, broadcast. Of integers the quotient is truncated towards zero; by 0 it is 0.
import { isFloat } from '../../../base/dtype.ts';
import { emit1 } from '../../tensor.ts';
import { binary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    div: NoAttrs;
  }
}

/**
 * a / b with broadcasting. Of integers the quotient is truncated towards zero, of the least one by -1 it is itself, by
 * 0 it is 0.
 */
export const div = binary({
  // a / b
  name: 'div',
  weight: 4,
  grad: ({ inputs: [, b], outputs: [y], needs }, dout) => {
    const da = emit1('div', [dout, b]);
    return [da, needs[1] ? emit1('neg', [emit1('mul', [da, y])]) : null];
  },
  expr: (e, [a, b]) => e.op('div', [a, b]),
  value: ([a, b], _, { to }) => (isFloat(to) ? a / b : b === 0 ? 0 : Math.trunc(a / b)),
});
