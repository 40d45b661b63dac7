// The gradient of depthwise2d for its images: each place gathers from the outputs whose window covers it, in the order
// of their taps.
import { sizes, type TensorType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1 } from '../../tensor.ts';
import { checkFloats, checkOutput, type Geometry } from './convolution.ts';
import { depthwise } from './depthwise2d.ts';
import { lookers, unpooled } from './pooling.ts';
import { type WindowAttrs } from './windows.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    depthwise2dGradInput: DepthwiseGradInputAttrs;
  }
}

/** size: [height, width] of the images. */
export type DepthwiseGradInputAttrs = WindowAttrs & { readonly size: readonly number[] };

export const gradInputGeometry = (dy: TensorType, w: TensorType, attrs: DepthwiseGradInputAttrs): Geometry =>
  depthwise('depthwise2dGradInput', unpooled(dy, attrs.size), sizes(w.shape), attrs);

export const depthwise2dGradInputOp: Op<DepthwiseGradInputAttrs> = {
  // Gradient of depthwise2d for its images, from that of its result and the weights.
  name: 'depthwise2dGradInput',
  keepsRows: true,
  takes: ['floats'],
  infer([dy, w], attrs) {
    checkFloats('depthwise2dGradInput', dy, w);
    checkOutput('depthwise2dGradInput', gradInputGeometry(dy, w, attrs), dy);
    return [unpooled(dy, attrs.size)];
  },
  grad({ inputs: [dy, w], douts: [u], attrs: { size: _, ...attrs }, needs }) {
    if (!u) return [null, null];
    return [
      needs[0] ? emit1('depthwise2d', [u, w], attrs) : null,
      needs[1] ? emit1('depthwise2dGradWeight', [u, dy], { ...attrs, taps: sizes(w.shape).slice(0, 2) }) : null,
    ];
  },
  lower: {
    kind: 'map',
    weight: 16,
    passes: 9,
    at({ e, inputs: [dy, w], attrs }, [n, h, v, c]) {
      const dtype = dy.type.dtype,
        zero = e.const(0, dtype),
        { axes, outputs } = gradInputGeometry(dy.type, w.type, attrs);
      return lookers(e, axes, h, v).reduce((sum, t) => {
        const number = e.select(t.inside, t.number, e.index(0));
        return e.op('fma', [
          e.select(t.inside, dy.at([n, t.row, t.column, c]), zero),
          w.linear(e.add([outputs, number], c)),
          sum,
        ]);
      }, zero);
    },
  },
};
