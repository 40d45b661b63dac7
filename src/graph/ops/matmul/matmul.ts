// Matrix product over the last two dimensions, batched over equal leading dimensions; each operand may be transposed. K
// is summed in ascending order, one fused multiply-add at a time; integers modulo 2^32. With the attribute parts, K is
// summed in parts (base/parts.ts).
import { ShapeError } from '../../../base/errors.ts';
import { checkOptions, type KeysOf } from '../../../base/options.ts';
import { aFlag } from '../../../base/kinds.ts';
import { checkParts, type PartsAttrs } from '../../../base/parts.ts';
import { boundOf, sameShape, showShape, type Dim, type TensorType } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Op } from '../../op.ts';
import { checkTensors, emit1, type Tensor } from '../../tensor.ts';
import { reshape } from '../shape/reshape.ts';
import { unlike } from '../checked.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    matmul: MatmulAttrs;
  }
}

/** transA: a is [..., K, M]; transB: b is [..., N, K]. */
export type MatmulAttrs = { readonly transA: boolean; readonly transB: boolean } & PartsAttrs;

interface Sizes {
  readonly batch: readonly Dim[];
  readonly m: Dim;
  readonly n: Dim;
  readonly ka: Dim;
  readonly kb: Dim;
}

export function split(a: TensorType, b: TensorType, { transA, transB }: MatmulAttrs): Sizes {
  const [r, s] = [a.shape.length, b.shape.length];
  if (r < 2 || s !== r)
    throw new ShapeError(
      `matmul: needs two tensors of equal rank >= 2, got ${showShape(a.shape)} and ${showShape(b.shape)}`,
    );
  const [m, ka] = transA ? [a.shape[r - 1], a.shape[r - 2]] : [a.shape[r - 2], a.shape[r - 1]];
  const [kb, n] = transB ? [b.shape[s - 1], b.shape[s - 2]] : [b.shape[s - 2], b.shape[s - 1]];
  return { batch: a.shape.slice(0, -2), m, n, ka, kb };
}

export const matmulOp: Op<MatmulAttrs> = {
  // Product over the last two dimensions.
  name: 'matmul',
  activations: { inputs: [0, 1], outputs: [0] },
  takes: ['numbers', 'numbers'],
  infer([a, b], attrs) {
    const { batch, m, n, ka, kb } = split(a, b, attrs);
    if (!sameShape([ka], [kb])) {
      throw new ShapeError(
        `matmul: inner dimensions differ: ${showShape(a.shape)}${attrs.transA ? ' transposed' : ''} times ` +
          `${showShape(b.shape)}${attrs.transB ? ' transposed' : ''}`,
      );
    }
    if (!sameShape(batch, b.shape.slice(0, -2)))
      throw new ShapeError(`matmul: batch dimensions differ: ${showShape(a.shape)} and ${showShape(b.shape)}`);
    checkParts('matmul', attrs, ka);
    if (typeof n !== 'number') throw new ShapeError('matmul: the columns of the result cannot vary at run time');
    if (a.dtype !== b.dtype) throw unlike('matmul', a.dtype, b.dtype);
    return [{ dtype: a.dtype, shape: [...batch, m, n] }];
  },
  grad({ inputs: [a, b], douts: [dy], attrs: { transA, transB }, needs }) {
    if (!dy) return [null, null];
    const product = (x: Tensor, y: Tensor, tx: boolean, ty: boolean): Tensor =>
      emit1('matmul', [x, y], { transA: tx, transB: ty });
    const da = () => (transA ? product(b, dy, transB, true) : product(dy, b, false, !transB));
    const db = () => (transB ? product(dy, a, true, transA) : product(a, dy, !transA, false));
    return [needs[0] ? da() : null, needs[1] ? db() : null];
  },
  lower: {
    kind: 'matmul',
    build(call) {
      const {
        e,
        inputs: [a, b],
        attrs,
      } = call;
      const { batch, m, n, ka } = split(a.type, b.type, attrs);
      const dims = batch.map(boundOf);
      const lead = (z: Expr): Expr[] => {
        let step = dims.reduce((p, d) => p * d, 1);
        return dims.map((d, i) => {
          step /= d;
          return i === 0 ? e.div(z, step) : e.mod(e.div(z, step), d);
        });
      };
      return {
        groups: dims.reduce((p, d) => p * d, 1),
        m: call.all(m, 1),
        n: boundOf(n),
        depth: call.all(ka, 1),
        parts: call.parts(attrs, ka, 1),
        a: (z, i, k) => a.at([...lead(z), ...(attrs.transA ? [k, i] : [i, k])]),
        b: (z, k, j) => b.at([...lead(z), ...(attrs.transB ? [j, k] : [k, j])]),
        index: (z, i, j) => [...lead(z), i, j],
      };
    },
  },
};

export interface MatmulOptions {
  readonly transA?: boolean;
  readonly transB?: boolean;
}
const KEYS: KeysOf<MatmulOptions> = { transA: aFlag, transB: aFlag };

/** a [..., M, K] times b [..., K, N] -> [..., M, N]; a matrix b serves all leading dimensions of a. */
export function matmul(a: Tensor, b: Tensor, options: MatmulOptions = {}): Tensor {
  checkOptions('matmul', options, KEYS);
  checkTensors('matmul', a, b);
  const { transA = false, transB = false } = options;
  if (b.shape.length === 2 && a.shape.length > 2 && !transA) {
    const lead = a.shape.slice(0, -1).map(boundOf),
      inner = boundOf(a.shape[a.shape.length - 1]);
    const flat = reshape(a, [lead.reduce((n, d) => n * d, 1), inner]);
    const out = emit1('matmul', [flat, b], { transA, transB });
    return reshape(out, [...lead, boundOf(out.shape[1])]);
  }
  return emit1('matmul', [a, b], { transA, transB });
}
