// The derivative of GELU: s + a s (1 - s) u'(a) with s = sigmoid(u(a)), u as in gelu.ts. It is stored where GELU is
// computed, which makes it for a few operations more; a gradient then reads it in the place of a, and computes no
// sigmoid again.
import { emit1, scalar, type Tensor } from '../../tensor.ts';
import { elementwise } from './elementwise.ts';
import { FIRST, gateOf, THIRD } from './gelu.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    geluSlope: NoAttrs;
  }
}

export const geluSlopeOp = elementwise({
  name: 'geluSlope',
  arity: 1,
  takes: 'floats',
  weight: 30,
  stored: true,
  savedForGradients: true,
  grad: ({ inputs: [a] }, dout) => {
    // s' (2 u' + a ((1 - 2 s) u'^2 + u'')), where s' = s (1 - s) is the sigmoid's own derivative
    const times = (x: Tensor, y: Tensor | number): Tensor =>
      emit1('mul', [x, typeof y === 'number' ? scalar(a, y) : y]);
    const plus = (x: Tensor, y: Tensor | number): Tensor => emit1('add', [x, typeof y === 'number' ? scalar(a, y) : y]);
    const square = times(a, a),
      s = emit1('sigmoid', [times(a, plus(times(square, THIRD), FIRST))]),
      rest = emit1('sub', [scalar(a, 1), s]);
    const first = plus(times(square, 3 * THIRD), FIRST),
      second = times(a, 6 * THIRD);
    const curve = plus(times(times(first, first), emit1('sub', [rest, s])), second);
    return [times(dout, times(times(s, rest), plus(times(first, 2), times(a, curve))))];
  },
  expr(e, [a], dtype) {
    const s = gateOf(e, a, dtype),
      one = e.const(1, dtype);
    const first = e.op('fma', [e.op('mul', [a, a]), e.const(3 * THIRD, dtype), e.const(FIRST, dtype)]);
    return e.op('mul', [s, e.op('fma', [e.op('mul', [a, first]), e.op('sub', [one, s]), one])]);
  },
  value: ([a]) => {
    const s = 1 / (1 + Math.exp(-a * (FIRST + THIRD * a * a)));
    return s + a * s * (1 - s) * (FIRST + 3 * THIRD * a * a);
  },
});
