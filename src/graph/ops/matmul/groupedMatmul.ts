// A bank of equal experts as one product: the rows of each segment times the matrix of that segment. K is summed in
// ascending order, one fused multiply-add at a time.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, showType } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { segmentsOf } from '../moe/routing.ts';
import { unlike } from '../checked.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    groupedMatmul: GroupedMatmulAttrs;
  }
}

/**
 * transB: w is [E, N, K]. more: x has only some of a layer's rows; the gradient of the matrices continues the sum over
 * the rows that come later in the graph.
 */
export type GroupedMatmulAttrs = { readonly transB: boolean; readonly more?: boolean };

export const groupedMatmulOp: Op<GroupedMatmulAttrs> = {
  // Rows of segment e times w[e].
  name: 'groupedMatmul',
  activations: { inputs: [0, 1], outputs: [0] },
  takes: ['floats'],
  infer([x, w], { transB }) {
    const { segments } = segmentsOf('groupedMatmul', x);
    if (x.dtype !== w.dtype) throw unlike('groupedMatmul', x.dtype, w.dtype);
    const [experts, n, k] = [w.shape[0], w.shape[transB ? 1 : 2], w.shape[transB ? 2 : 1]];
    if (x.shape.length !== 2 || w.shape.length !== 3 || experts !== segments || k !== x.shape[1]) {
      throw new ShapeError(
        `groupedMatmul: rows ${showType(x)} and matrices ${showType(w)}${transB ? ' transposed' : ''} do not fit`,
        `rows [.., K] in ${segments} segments need matrices [${segments}, ${transB ? 'N, K' : 'K, N'}] ` +
          'of the same dtype',
      );
    }
    return [{ dtype: x.dtype, shape: [x.shape[0], n] }];
  },
  grad({ inputs: [x, w], douts: [d], attrs: { transB, more }, needs, takeAccumulatedGrad }) {
    if (!d) return [null, null];
    const pair = transB ? [d, x] : [x, d],
      begun = more && needs[1] ? takeAccumulatedGrad(1) : null;
    const outer = (): Tensor =>
      begun
        ? emit1('groupedOuterOnto', [...pair, x.builder.tensor(segmentsOf('groupedMatmul', x.type).offsets), begun])
        : emit1('groupedOuter', pair);
    return [needs[0] ? emit1('groupedMatmul', [d, w], { transB: !transB }) : null, needs[1] ? outer() : null];
  },
  lower: {
    kind: 'matmul',
    build(call) {
      const {
          e,
          inputs: [x, w],
          attrs: { transB },
        } = call,
        rows = x.type.shape[0];
      const row = (z: Expr, i: Expr): Expr => e.add(e.cast(call.offset(rows, z), 'index'), i);
      return {
        groups: boundOf(w.type.shape[0]),
        m: call.size(rows),
        n: boundOf(w.type.shape[transB ? 1 : 2]),
        depth: boundOf(x.type.shape[1]),
        a: (z, i, k) => x.at([row(z, i), k]),
        b: (z, k, j) => w.at(transB ? [z, j, k] : [z, k, j]),
        index: (z, i, j) => [row(z, i), j],
      };
    },
  },
};

/** x [rows in E segments, K] times w [E, K, N] (transB: [E, N, K]) -> [rows in E segments, N]. */
export const groupedMatmul = (x: Tensor, w: Tensor, { transB = false, more = false } = {}): Tensor =>
  emit1('groupedMatmul', [x, w], { transB, ...(more && { more }) });
