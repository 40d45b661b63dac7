// The same values, through which no gradient flows: what is computed from them counts as a constant of the model.
import { emit1, type Tensor } from '../../tensor.ts';
import { elementwise, withOp } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    stopGradient: NoAttrs;
  }
}

const stopGradientOp = elementwise({
  // a, as a constant
  name: 'stopGradient',
  arity: 1,
  takes: 'stored',
  weight: 0,
  grad: () => [null],
  expr: (_, [a]) => a,
  value: ([a]) => a,
});

/** x as a constant: gradients to what x was computed from are 0. */
export const stopGradient = withOp(stopGradientOp, (x: Tensor): Tensor => emit1('stopGradient', [x]));
