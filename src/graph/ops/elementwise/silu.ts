// SiLU, also called swish: a * sigmoid(a).
import { math64 } from '../../../base/math64.ts';
import { emit1, scalar } from '../../tensor.ts';
import { unary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    silu: NoAttrs;
  }
}

/** a * sigmoid(a) (Elfwing et al. 2017). */
export const silu = unary({
  // a * sigmoid(a)
  name: 'silu',
  takes: 'floats',
  weight: 18,
  grad: ({ inputs: [a] }, dout) => {
    // s (1 + a (1 - s))
    const s = emit1('sigmoid', [a]),
      one = scalar(a, 1);
    return [emit1('mul', [dout, emit1('mul', [s, emit1('add', [one, emit1('mul', [a, emit1('sub', [one, s])])])])])];
  },
  expr: (e, [a]) => e.op('mul', [a, e.op('sigmoid', [a])]),
  value: ([a]) => a * math64.sigmoid(a),
});
