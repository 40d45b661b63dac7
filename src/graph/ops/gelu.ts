// GELU, tanh approximation (Hendrycks & Gimpel 2016).
import { emit1, scalar, type Tensor } from '../tensor.ts';
import { elementwise } from './elementwise.ts';
const C = Math.sqrt(2 / Math.PI), D = 0.044715;
export const geluOp = elementwise({
  name: 'gelu', doc: 'a * Phi(a), tanh approximation', arity: 1, weight: 30,
  grad: ({ inputs: [a] }, dout) => {
    const m = (x: Tensor, y: Tensor): Tensor => emit1('mul', [x, y]), p = (x: Tensor, y: Tensor): Tensor => emit1('add', [x, y]);
    const k = (v: number): Tensor => scalar(a, v);
    const sq = m(a, a), t = emit1('tanh', [m(k(C), m(a, p(m(sq, k(D)), k(1))))]);
    const inner = m(k(C), p(m(sq, k(3 * D)), k(1)));
    const d = p(m(k(0.5), p(t, k(1))), m(m(k(0.5), a), m(emit1('sub', [k(1), m(t, t)]), inner)));
    return [m(dout, d)];
  },
  expr: (e, [a], dtype) => {
    const op = (o: 'mul' | 'add', x: typeof a, y: typeof a): typeof a => e.op(o, [x, y], dtype), k = (v: number): typeof a => e.const(v, dtype);
    const t = e.op('tanh', [op('mul', k(C), op('mul', a, op('add', op('mul', op('mul', a, a), k(D)), k(1))))], dtype);
    return op('mul', op('mul', k(0.5), a), op('add', t, k(1)));
  },
  value: ([a]) => 0.5 * a * (1 + Math.tanh(C * a * (1 + D * a * a))),
});
export const gelu = (a: Tensor): Tensor => emit1('gelu', [a]);
