// The gradient of a convolution for its weights: a product per group whose rows are (tap row, tap column, channel) and
// whose depth is all outputs of all images, in ascending order.
import { ShapeError } from '../../../base/errors.ts';
import { checkParts, type PartsAttrs } from '../../../base/parts.ts';
import { boundOf, sameDim, showType, sizes, type TensorType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1 } from '../../tensor.ts';
import {
  checkCount,
  checkFloats,
  checkOutput,
  geometry,
  unravel3,
  type ConvAttrs,
  type Geometry,
} from './convolution.ts';
import { placeOf } from './windows.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    conv2dGradWeight: ConvGradWeightAttrs;
  }
}

/** taps: [rows, columns] of the weights. In parts: of the images. */
export type ConvGradWeightAttrs = ConvAttrs & { readonly taps: readonly number[] } & PartsAttrs;

export function gradWeightShapes(
  x: TensorType,
  dy: TensorType,
  attrs: ConvGradWeightAttrs,
): { g: Geometry; weight: number[] } {
  if (x.shape.length !== 4 || dy.shape.length !== 4 || !sameDim(x.shape[0], dy.shape[0])) {
    throw new ShapeError(
      `conv2dGradWeight: ${showType(x)} and ${showType(dy)} are not the images and the result of ` + `a convolution`,
    );
  }
  const weight = [...attrs.taps, Math.floor(boundOf(x.shape[3]) / attrs.groups), boundOf(dy.shape[3])];
  return { g: geometry('conv2dGradWeight', x, weight, attrs), weight };
}

export const conv2dGradWeightOp: Op<ConvGradWeightAttrs> = {
  // Gradient of conv2d for its weights, from the images and the gradient of its result.
  name: 'conv2dGradWeight',
  takes: ['floats'],
  infer([x, dy], attrs) {
    const { g, weight } = gradWeightShapes(x, dy, attrs);
    checkFloats('conv2dGradWeight', x, dy);
    checkCount('conv2dGradWeight', x, dy);
    checkOutput('conv2dGradWeight', g, dy);
    checkParts('conv2dGradWeight', attrs, x.shape[0]);
    return [{ dtype: x.dtype, shape: weight }];
  },
  grad({ inputs: [x, dy], douts: [u], attrs: { taps: _, parts: __, sample: ___, ...attrs }, needs }) {
    if (!u) return [null, null];
    return [
      needs[0] ? emit1('conv2dGradInput', [dy, u], { ...attrs, size: sizes(x.shape).slice(1, 3) }) : null,
      needs[1] ? emit1('conv2d', [x, u], attrs) : null,
    ];
  },
  lower: {
    kind: 'matmul',
    stored: true,
    build(call) {
      const {
          e,
          inputs: [x, dy],
          attrs,
        } = call,
        { g } = gradWeightShapes(x.type, dy.type, attrs);
      const {
        axes: [rows, columns],
        groupInputs: I,
        groupOutputs: O,
        outputs,
      } = g;
      return {
        groups: attrs.groups,
        m: rows.taps * columns.taps * I,
        n: O,
        depth: call.all(x.type.shape[0], rows.outputs * columns.outputs),
        parts: call.parts(attrs, x.type.shape[0], rows.outputs * columns.outputs),
        a(z, i, k) {
          const [s, t, c] = unravel3(e, i, columns.taps, I),
            [n, r, q] = unravel3(e, k, rows.outputs, columns.outputs);
          const h = placeOf(e, rows, r, s),
            v = placeOf(e, columns, q, t);
          return e.select(e.and(h.inside, v.inside), x.at([n, h.at, v.at, e.add([I, z], c)]), e.const(0, x.type.dtype));
        },
        b: (z, k, j) => dy.linear(e.add([outputs, k], [O, z], j)),
        index: (z, i, j) => [...unravel3(e, i, columns.taps, I), e.add([O, z], j)],
      };
    },
  },
};
