// The error function.
import { emit1, scalar, type Tensor } from '../tensor.ts';
import { elementwise } from './elementwise.ts';

export const erfOp = elementwise({
  // Erf a.
  name: 'erf', arity: 1, takes: 'floats', weight: 20,
  grad: ({ inputs: [a] }, dout) =>
    [emit1('mul', [dout, emit1('mul', [emit1('exp', [emit1('neg', [emit1('mul', [a, a])])]), scalar(a, 2 / Math.sqrt(Math.PI))])])],
  expr: (e, [a], dtype) => e.op('erf', [a], dtype),
  value: ([a]) => erfOf(a),
});

/** Kummer's series, all terms of one sign: erf x = 2/sqrt(pi) e^(-x^2) sum 2^n x^(2n+1) / (2n+1)!!. */
function erfOf(x: number): number {
  if (!(Math.abs(x) < 6)) return Number.isNaN(x) ? NaN : Math.sign(x);
  let term = x, total = x;
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(total); n++) {
    term *= (2 * x * x) / (2 * n + 1);
    total += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * total;
}

/** The error function. */
export const erf = (a: Tensor): Tensor => emit1('erf', [a]);
