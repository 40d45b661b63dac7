// One over the square root.
import { emit1, scalar } from '../../tensor.ts';
import { unary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    rsqrt: NoAttrs;
  }
}

/** 1 / sqrt(a), by a division, correctly rounded twice. */
export const rsqrt = unary({
  // 1 / sqrt(a)
  name: 'rsqrt',
  smooth: { from: 0 },
  takes: 'floats',
  weight: 8,
  grad: ({ outputs: [y] }, dout) => [
    emit1('mul', [emit1('mul', [dout, scalar(y, -0.5)]), emit1('mul', [y, emit1('mul', [y, y])])]),
  ],
  expr: (e, [a], dtype) => e.op('div', [e.const(1, dtype), e.op('sqrt', [a])]),
  value: ([a]) => 1 / Math.sqrt(a),
});
