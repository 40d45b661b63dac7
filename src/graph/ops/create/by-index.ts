// Elementwise lowering of ops whose result also depends on the element's row-major index, such as random numbers that
// are counted by it.
import { stridesOf } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Attrs } from '../../graph.ts';
import type { Lowering, MapCall } from '../../op.ts';

/** `element`: the result from the element of the first input and its row-major index. */
export const lowerByIndex = <A extends Attrs>(
  weight: number,
  element: (call: MapCall<A>, x: Expr, linear: Expr) => Expr,
): Lowering<A> => ({
  kind: 'map',
  weight,
  at(call, index) {
    const strides = stridesOf(call.outTypes[0].shape),
      x = call.inputs[0].at(index);
    return element(
      call,
      x,
      call.e.linear(
        0,
        index.map((i, d) => [strides[d], i]),
      ),
    );
  },
  linear: (call, l) => element(call, call.inputs[0].linear(l), l),
});
