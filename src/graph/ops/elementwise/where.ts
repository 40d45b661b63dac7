// Chooses between two values by a condition, broadcast.
import { emit1, scalar, type Tensor } from '../../tensor.ts';
import { elementwise, withOp } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    where: NoAttrs;
  }
}

const whereOp = elementwise({
  // Condition ? a : b.
  name: 'where',
  arity: 3,
  takes: 'a bool and two alike',
  dtype: ([, a]) => a,
  grad: ({ inputs: [c], needs }, dout) => [
    null,
    needs[1] ? emit1('where', [c, dout, scalar(dout, 0)]) : null,
    needs[2] ? emit1('where', [c, scalar(dout, 0), dout]) : null,
  ],
  expr: (e, [c, a, b]) => e.select(c, a, b),
  value: ([c, a, b]) => (c ? a : b),
});

/** condition ? a : b; condition is bool. */
export const where = withOp(whereOp, (condition: Tensor, a: Tensor, b: Tensor): Tensor =>
  emit1('where', [condition, a, b]),
);
