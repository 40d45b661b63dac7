// a * sigmoid(a).
import { emit1, scalar, type Tensor } from '../tensor.ts';
import { elementwise } from './elementwise.ts';

export const siluOp = elementwise({
  name: 'silu', doc: 'a * sigmoid(a)', arity: 1, weight: 16,
  grad: ({ inputs: [a] }, dout) => { const s = emit1('sigmoid', [a]); return [emit1('mul', [dout, emit1('mul', [s, emit1('add', [emit1('mul', [a, emit1('sub', [scalar(a, 1), s])]), scalar(a, 1)])])])]; },
  expr: (e, [a], dtype) => e.op('mul', [a, e.op('sigmoid', [a], dtype)], dtype),
  value: ([a]) => a / (1 + Math.exp(-a)),
});

export const silu = (a: Tensor): Tensor => emit1('silu', [a]);
