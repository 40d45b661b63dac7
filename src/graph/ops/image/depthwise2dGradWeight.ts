// The gradient of depthwise2d for its weights: for each tap and channel the sum over all outputs of all images, one by
// one.
import { checkParts, type PartsAttrs } from '../../../base/parts.ts';
import { sizes, type TensorType } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Op } from '../../op.ts';
import { emit1 } from '../../tensor.ts';
import { checkCount, checkFloats, checkOutput, unravel3, type Geometry } from './convolution.ts';
import { depthwise } from './depthwise2d.ts';
import { placeOf, type WindowAttrs } from './windows.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    depthwise2dGradWeight: DepthwiseGradWeightAttrs;
  }
}

/** taps: [rows, columns] of the weights. In parts: of the images. */
export type DepthwiseGradWeightAttrs = WindowAttrs & { readonly taps: readonly number[] } & PartsAttrs;

const weightOf = (dy: TensorType, attrs: DepthwiseGradWeightAttrs): number[] => [...attrs.taps, 1, sizes(dy.shape)[3]];
export const gradWeightGeometry = (x: TensorType, dy: TensorType, attrs: DepthwiseGradWeightAttrs): Geometry =>
  depthwise('depthwise2dGradWeight', x, weightOf(dy, attrs), attrs);

export const depthwise2dGradWeightOp: Op<DepthwiseGradWeightAttrs> = {
  // Gradient of depthwise2d for its weights, from the images and the gradient of its result.
  name: 'depthwise2dGradWeight',
  takes: ['floats'],
  infer([x, dy], attrs) {
    checkFloats('depthwise2dGradWeight', x, dy);
    checkCount('depthwise2dGradWeight', x, dy);
    checkOutput('depthwise2dGradWeight', gradWeightGeometry(x, dy, attrs), dy);
    checkParts('depthwise2dGradWeight', attrs, x.shape[0]);
    return [{ dtype: x.dtype, shape: weightOf(dy, attrs) }];
  },
  grad({ inputs: [x, dy], douts: [u], attrs: { taps: _, parts: __, sample: ___, ...attrs }, needs }) {
    if (!u) return [null, null];
    return [
      needs[0] ? emit1('depthwise2dGradInput', [dy, u], { ...attrs, size: sizes(x.shape).slice(1, 3) }) : null,
      needs[1] ? emit1('depthwise2d', [x, u], attrs) : null,
    ];
  },
  lower: {
    kind: 'map',
    weight: 16,
    passes: 9,
    at(call, [s, t, , c]) {
      const {
          e,
          inputs: [x, dy],
          attrs,
        } = call,
        dtype = x.type.dtype,
        {
          axes: [rows, columns],
        } = gradWeightGeometry(x.type, dy.type, attrs);
      const each = rows.outputs * columns.outputs;
      const term = (i: Expr): Expr => {
        const [n, r, q] = unravel3(e, i, rows.outputs, columns.outputs),
          h = placeOf(e, rows, r, s),
          v = placeOf(e, columns, q, t);
        const seen = e.select(e.and(h.inside, v.inside), x.at([n, h.at, v.at, c]), e.const(0, dtype));
        return e.op('mul', [seen, dy.at([n, r, q, c])]);
      };
      return e.reduce(
        'sum',
        'serial',
        e.scale(call.extent(x.type, 0), each),
        term,
        call.parts(attrs, x.type.shape[0], each),
      );
    },
  },
};
