// Cosine.
import { emit1, type Tensor } from '../../tensor.ts';
import { elementwise, withOp } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    cos: NoAttrs;
  }
}

const cosOp = elementwise({
  // Cos a.
  name: 'cos',
  arity: 1,
  takes: 'floats',
  weight: 14,
  grad: ({ inputs: [a] }, dout) => [emit1('neg', [emit1('mul', [dout, emit1('sin', [a])])])],
  expr: (e, [a]) => e.op('cos', [a]),
  value: ([a]) => Math.cos(a),
});

/** Cosine of radians. */
export const cos = withOp(cosOp, (a: Tensor): Tensor => emit1('cos', [a]));
