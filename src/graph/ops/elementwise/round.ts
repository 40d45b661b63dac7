// The nearest whole number, halves to the even one (IEEE 754's default); its gradient is 0.
import { emit1, type Tensor } from '../../tensor.ts';
import { elementwise, withOp } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    round: NoAttrs;
  }
}

const roundOp = elementwise({
  // Nearest whole number, halves to even.
  name: 'round',
  arity: 1,
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

/** The nearest whole number, halves to the even one; its gradient is 0. */
export const round = withOp(roundOp, (a: Tensor): Tensor => emit1('round', [a]));
