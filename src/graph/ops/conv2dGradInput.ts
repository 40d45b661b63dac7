// The gradient of a convolution to its images (also called a transposed convolution): a product per group whose rows are places of the images and whose
// depth is (tap row, tap column, output channel), in ascending order; a tap at which no output looks at the place adds 0.
import { ShapeError } from '../../base/errors.ts';
import { boundOf, showType, sizes, type TensorType } from '../../base/shape.ts';
import type { Op } from '../op.ts';
import { emit1 } from '../tensor.ts';
import { checkFloats, checkOutput, eachTerm, geometry, unravel3, type ConvAttrs, type Geometry } from './convolution.ts';
import { both, outputOf, resultOf } from './windows.ts';

/** size: [height, width] of the images. */
export type ConvGradInputAttrs = ConvAttrs & { readonly size: readonly number[] };

function shapes(dy: TensorType, w: TensorType, attrs: ConvGradInputAttrs): { g: Geometry; images: TensorType } {
  if (dy.shape.length !== 4 || w.shape.length !== 4) throw new ShapeError(`conv2dGradInput: ${showType(dy)} and ${showType(w)} are not images and weights`);
  const images: TensorType = { dtype: dy.dtype, shape: [dy.shape[0], ...attrs.size, boundOf(w.shape[2]) * attrs.groups] };
  return { g: geometry('conv2dGradInput', images, sizes(w.shape), attrs), images };
}

export const conv2dGradInputOp: Op<ConvGradInputAttrs> = {
  name: 'conv2dGradInput', doc: 'gradient of conv2d to its images, from that to its result and the weights',
  infer([dy, w], attrs) {
    const { g, images } = shapes(dy, w, attrs);
    checkFloats('conv2dGradInput', dy, w);
    checkOutput('conv2dGradInput', g, dy);
    return [images];
  },
  grad({ inputs: [dy, w], douts: [u], attrs: { size: _, ...attrs }, needs }) {
    if (!u) return [null, null];
    return [
      needs[0] ? emit1('conv2d', [u, w], attrs) : null,
      needs[1] ? emit1('conv2dGradWeight', [u, dy], { ...attrs, taps: sizes(w.shape).slice(0, 2) }) : null];
  },
  lower: { kind: 'matmul', stored: true, build(call) {
    const { e, inputs: [dy, w], attrs } = call, { g } = shapes(dy.type, w.type, attrs);
    const { axes: [rows, columns], groupInputs: I, groupOutputs: O, outputs } = g;
    return {
      groups: attrs.groups, m: call.all(dy.type.shape[0], rows.size * columns.size), n: I, depth: rows.taps * columns.taps * O,
      a(z, i, k) {
        const [n, h, v] = unravel3(e, i, rows.size, columns.size), [s, t, o] = unravel3(e, k, columns.taps, O);
        const r = outputOf(e, rows, h, s), q = outputOf(e, columns, v, t);
        return e.op('select', [both(e, r.inside, q.inside), dy.at([n, r.at, q.at, e.linear(0, [[O, z], [1, o]])]), e.const(0, dy.type.dtype)], dy.type.dtype);
      },
      b: (z, k, j) => w.linear(e.linear(0, [[I * outputs, e.div(k, O)], [outputs, j], [O, z], [1, e.mod(k, O)]])),
      index: (z, i, j) => [...unravel3(e, i, rows.size, columns.size), e.linear(0, [[I, z], [1, j]])],
    };
  } },
  reference(call) {
    const { inputs: [dy, w], inTypes: [ty, tw], outTypes: [type], attrs } = call, { out, images } = resultOf(call, type);
    eachTerm(shapes(ty, tw, attrs).g, images, (i, j, o) => { out[i] += dy[o] * w[j]; });
    return [out];
  },
};
