// The error function.
import { math64 } from '../../../base/math64.ts';
import { emit1, scalar } from '../../tensor.ts';
import { unary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    erf: NoAttrs;
  }
}

/** The error function. */
export const erf = unary({
  // Erf a.
  name: 'erf',
  takes: 'floats',
  weight: 20,
  grad: ({ inputs: [a] }, dout) => [
    emit1('mul', [
      dout,
      emit1('mul', [emit1('exp', [emit1('neg', [emit1('mul', [a, a])])]), scalar(a, 2 / Math.sqrt(Math.PI))]),
    ]),
  ],
  expr: (e, [a]) => e.op('erf', [a]),
  value: ([a]) => math64.erf(a),
});
