// GELU by its tanh approximation (Hendrycks & Gimpel 2016): 0.5 a (1 + tanh(c (a + k a^3))), computed as a * sigmoid(2 c (a + k a^3)),
// which is the same function and keeps its precision where it is nearly 0. The exact one is mul(mul(a, 0.5), add(erf(mul(a, sqrt 0.5)), 1)).
import { emit1, scalar, type Tensor } from '../tensor.ts';
import { elementwise } from './elementwise.ts';

const C2 = 2 * Math.sqrt(2 / Math.PI), K = 0.044715;

export const geluOp = elementwise({
  // 0.5 a (1 + tanh(sqrt(2/pi) (a + 0.044715 a^3))).
  name: 'gelu', arity: 1, takes: 'floats', weight: 22,
  grad: ({ inputs: [a] }, dout) => {
    // s + a s (1 - s) du/da with u = c2 a (1 + k a^2), s = sigmoid(u)
    const [one, square] = [scalar(a, 1), emit1('mul', [a, a])];
    const poly = (k: number): Tensor => emit1('mul', [scalar(a, C2), emit1('add', [one, emit1('mul', [square, scalar(a, k)])])]);
    const s = emit1('sigmoid', [emit1('mul', [a, poly(K)])]);
    const slope = emit1('mul', [emit1('mul', [a, poly(3 * K)]), emit1('sub', [one, s])]);
    return [emit1('mul', [dout, emit1('mul', [s, emit1('add', [one, slope])])])];
  },
  expr(e, [a], dtype) {
    const times = (...x: typeof a[]): typeof a => x.reduce((p, q) => e.op('mul', [p, q], dtype));
    const inner = e.op('add', [e.const(1, dtype), times(a, a, e.const(K, dtype))], dtype);
    return times(a, e.op('sigmoid', [times(a, e.const(C2, dtype), inner)], dtype));
  },
  value: ([a]) => a / (1 + Math.exp(-C2 * a * (1 + K * a * a))),
});

/** GELU, tanh approximation. */
export const gelu = (a: Tensor): Tensor => emit1('gelu', [a]);
