// One over the square root.
import { emit1, scalar, type Tensor } from '../../tensor.ts';
import { elementwise, withOp } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    rsqrt: NoAttrs;
  }
}

const rsqrtOp = elementwise({
  // 1 / sqrt(a)
  name: 'rsqrt',
  arity: 1,
  smooth: { from: 0 },
  takes: 'floats',
  weight: 8,
  grad: ({ outputs: [y] }, dout) => [
    emit1('mul', [emit1('mul', [dout, scalar(y, -0.5)]), emit1('mul', [y, emit1('mul', [y, y])])]),
  ],
  expr: (e, [a], dtype) => e.op('div', [e.const(1, dtype), e.op('sqrt', [a])]),
  value: ([a]) => 1 / Math.sqrt(a),
});

/** 1 / sqrt(a), by a division, correctly rounded twice. */
export const rsqrt = withOp(rsqrtOp, (a: Tensor): Tensor => emit1('rsqrt', [a]));
