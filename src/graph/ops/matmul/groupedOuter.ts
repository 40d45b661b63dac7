// The gradient of groupedMatmul for its matrices: x^T y for each segment, its rows in order, one fused multiply-add at
// a time. A segment without rows gives zeros.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, sameDim, showType } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { segmentsOf } from '../moe/routing.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    groupedOuter: NoAttrs;
  }
}

export const groupedOuterOp: Op = {
  // Per segment the sum over its rows of x[r]^T y[r].
  name: 'groupedOuter',
  takes: ['floats'],
  infer([x, y]) {
    const { segments } = segmentsOf('groupedOuter', x);
    if (x.shape.length !== 2 || y.shape.length !== 2 || !sameDim(x.shape[0], y.shape[0]) || x.dtype !== y.dtype) {
      throw new ShapeError(`groupedOuter: ${showType(x)} and ${showType(y)} are not rows of the same segments`);
    }
    return [{ dtype: x.dtype, shape: [segments, x.shape[1], y.shape[1]] }];
  },
  // For y[r] = x[r] W[e], the gradient of W is x^T dy. So the gradients of x^T y are y dW^T and x dW.
  grad({ inputs: [x, y], douts: [d], needs }) {
    if (!d) return [null, null];
    return [
      needs[0] ? emit1('groupedMatmul', [y, d], { transB: true }) : null,
      needs[1] ? emit1('groupedMatmul', [x, d], { transB: false }) : null,
    ];
  },
  lower: {
    kind: 'matmul',
    build(call) {
      const {
          e,
          inputs: [x, y],
          outTypes: [o],
        } = call,
        rows = x.type.shape[0];
      const row = (z: Expr, k: Expr): Expr => e.add(e.cast(call.offset(rows, z), 'index'), k);
      return {
        groups: boundOf(o.shape[0]),
        m: boundOf(o.shape[1]),
        n: boundOf(o.shape[2]),
        depth: call.size(rows),
        a: (z, i, k) => x.at([row(z, k), i]),
        b: (z, k, j) => y.at([row(z, k), j]),
        index: (z, i, j) => [z, i, j],
      };
    },
  },
};

/** x [rows in E segments, M], y [the same rows, N] -> [E, M, N]. */
export const groupedOuter = (x: Tensor, y: Tensor): Tensor => emit1('groupedOuter', [x, y]);
