// log(1 + e^a), the smooth form of max(a, 0).
import { emit1, type Tensor } from '../tensor.ts';
import { elementwise } from './elementwise.ts';

export const softplusOp = elementwise({
  // log(1 + e^a)
  name: 'softplus', arity: 1, takes: 'floats', weight: 40,
  grad: ({ inputs: [a] }, dout) => [emit1('mul', [dout, emit1('sigmoid', [a])])],
  // max(a, 0) + log(1 + e^-|a|), which does not overflow.
  expr(e, [a], dtype) {
    const power = e.op('exp', [e.op('neg', [e.op('abs', [a], dtype)], dtype)], dtype);
    const rest = e.op('log', [e.op('add', [power, e.const(1, dtype)], dtype)], dtype);
    return e.op('add', [e.op('max', [a, e.const(0, dtype)], dtype), rest], dtype);
  },
  value: ([a]) => Math.max(a, 0) + Math.log1p(Math.exp(-Math.abs(a))),
});

/** log(1 + e^a). */
export const softplus = (a: Tensor): Tensor => emit1('softplus', [a]);
