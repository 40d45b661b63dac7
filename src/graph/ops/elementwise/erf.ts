// The error function.
import { math64 } from '../../../base/math64.ts';
import { emit1, scalar, type Tensor } from '../../tensor.ts';
import { elementwise, withOp } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    erf: NoAttrs;
  }
}

const erfOp = elementwise({
  // Erf a.
  name: 'erf',
  arity: 1,
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

/** The error function. */
export const erf = withOp(erfOp, (a: Tensor): Tensor => emit1('erf', [a]));
