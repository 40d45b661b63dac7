// Sine.
import { emit1, type Tensor } from '../../tensor.ts';
import { elementwise, withOp } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    sin: NoAttrs;
  }
}

const sinOp = elementwise({
  // Sin a.
  name: 'sin',
  arity: 1,
  takes: 'floats',
  weight: 14,
  grad: ({ inputs: [a] }, dout) => [emit1('mul', [dout, emit1('cos', [a])])],
  expr: (e, [a]) => e.op('sin', [a]),
  value: ([a]) => Math.sin(a),
});

/** Sine of radians. */
export const sin = withOp(sinOp, (a: Tensor): Tensor => emit1('sin', [a]));
