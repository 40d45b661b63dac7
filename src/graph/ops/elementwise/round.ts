// The nearest whole number, halves to the even one (IEEE 754's default); its gradient is 0.
import { unary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    round: NoAttrs;
  }
}

/** The nearest whole number, halves to the even one; its gradient is 0. */
export const round = unary({
  // Nearest whole number, halves to even.
  name: 'round',
  takes: 'floats',
  grad: () => [null],
  expr: (e, [a]) => e.op('round', [a]),
  value([a]) {
    const down = Math.floor(a),
      rest = a - down;
    const up = rest > 0.5 || (rest === 0.5 && down % 2 !== 0);
    return up ? down + 1 : down;
  },
});
