// The same values, through which no gradient flows: what is computed from them counts as a constant of the model.
import { unary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    stopGradient: NoAttrs;
  }
}

/** x as a constant: gradients to what x was computed from are 0. */
export const stopGradient = unary({
  // a, as a constant
  name: 'stopGradient',
  takes: 'stored',
  weight: 0,
  grad: () => [null],
  expr: (_, [a]) => a,
  value: ([a]) => a,
});
