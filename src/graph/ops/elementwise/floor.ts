// The largest whole number that is not larger; its gradient is 0.
import { emit1, type Tensor } from '../../tensor.ts';
import { unary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    floor: NoAttrs;
  }
}

/** The largest whole number that is not larger than each element; its gradient is 0. */
export const floor = unary({
  // Largest whole number <= a.
  name: 'floor',
  takes: 'floats',
  grad: () => [null],
  expr: (e, [a]) => e.op('floor', [a]),
  value: ([a]) => Math.floor(a),
});

/** The smallest whole number that is not smaller than each element; its gradient is 0. */
export const ceil = (a: Tensor): Tensor => emit1('neg', [floor(emit1('neg', [a]))]);
