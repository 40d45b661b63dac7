// Convolution of images (cross-correlation, as usual in deep learning) as one matrix product per group. The left
// operand is read from the images in place: its rows are outputs, its depth is (tap row, tap column, channel). Images
// are [N, H, W, C], so that the rows of the product are the result as it lies in memory, the channels of a tap are
// packed side by side, and what follows (bias, activation, normalisation over the last axis) is an epilogue. The depth
// is summed in ascending order, one fused multiply-add at a time.
import { checkOptions, type KeysOf } from '../../../base/options.ts';
import { aNumber } from '../../../base/kinds.ts';
import { sizes } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { checkTensors, emit1, type Tensor } from '../../tensor.ts';
import { checkFloats, geometry, unravel3, type ConvAttrs } from './convolution.ts';
import { MOST_TAPS, aPadding, aPair, attrsOf, placeOf, type Padding, type Pair } from './windows.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    conv2d: ConvAttrs;
  }
}

export const conv2dOp: Op<ConvAttrs> = {
  // Images x convolved with weights w.
  name: 'conv2d',
  activations: { inputs: [0, 1], outputs: [0] },
  keepsRows: true,
  takes: ['floats'],
  infer([x, w], attrs) {
    const {
      axes: [rows, columns],
      outputs,
    } = geometry('conv2d', x, sizes(w.shape), attrs);
    checkFloats('conv2d', x, w);
    return [{ dtype: x.dtype, shape: [x.shape[0], rows.outputs, columns.outputs, outputs] }];
  },
  grad({ inputs: [x, w], douts: [dy], attrs, needs }) {
    if (!dy) return [null, null];
    return [
      needs[0] ? emit1('conv2dGradInput', [dy, w], { ...attrs, size: sizes(x.shape).slice(1, 3) }) : null,
      needs[1] ? emit1('conv2dGradWeight', [x, dy], { ...attrs, taps: sizes(w.shape).slice(0, 2) }) : null,
    ];
  },
  lower: {
    kind: 'matmul',
    stored: true,
    build(call) {
      const {
          e,
          inputs: [x, w],
          attrs,
        } = call,
        g = geometry('conv2d', x.type, sizes(w.type.shape), attrs);
      const {
        axes: [rows, columns],
        groupInputs: I,
        groupOutputs: O,
        inputs,
        outputs,
      } = g;
      const depth = rows.taps * columns.taps * I;
      const flat = [rows, columns].every((a) => a.taps === 1 && a.stride === 1 && a.before + a.after === 0);
      return {
        groups: attrs.groups,
        m: call.all(x.type.shape[0], rows.outputs * columns.outputs),
        n: O,
        depth,
        a(z, i, k) {
          if (flat) return x.linear(e.add([inputs, i], [I, z], k));
          const [n, r, q] = unravel3(e, i, rows.outputs, columns.outputs),
            [s, t, c] = unravel3(e, k, columns.taps, I);
          const h = placeOf(e, rows, r, s),
            v = placeOf(e, columns, q, t);
          return e.select(e.and(h.inside, v.inside), x.at([n, h.at, v.at, e.add([I, z], c)]), e.const(0, x.type.dtype));
        },
        b: (z, k, j) => w.linear(e.add([outputs, k], [O, z], j)),
        index: (z, i, j) => [...unravel3(e, i, rows.outputs, columns.outputs), e.add([O, z], j)],
      };
    },
  },
};

export interface Conv2dOptions {
  readonly stride?: Pair;
  readonly padding?: Padding;
  readonly dilation?: Pair;
  /** Number of groups of channels. If it is the number of channels, each channel has its own weights (depthwise). */
  readonly groups?: number;
}
export const CONV_KEYS: KeysOf<Conv2dOptions> = {
  stride: aPair(1),
  padding: aPadding,
  dilation: aPair(1),
  groups: aNumber,
};

/**
 * y[n, r, q, o] = sum over taps (s, t) and channels c of x[n, r * stride - top + s * dilation, ..., c] w[s, t, c, o]: x
 * [N, H, W, inputs], w [rows, columns, inputs / groups, outputs] -> [N, H', W', outputs] with H' = floor((H + top +
 * bottom - dilation (rows - 1) - 1) / stride) + 1; outside x there are zeros (times an infinite weight: NaN). N may
 * vary at run time. ShapeError where they do not fit.
 */
export function conv2d(x: Tensor, w: Tensor, options: Conv2dOptions = {}): Tensor {
  checkOptions('conv2d', options, CONV_KEYS);
  const { stride = 1, padding = 0, dilation = 1, groups = 1 } = options;
  checkTensors('conv2d', x, w);
  const [rows, columns, inputs, outputs] = sizes(w.shape),
    attrs = attrsOf(x, [rows ?? 0, columns ?? 0], stride, padding, dilation);
  // A product with one row and one column per channel would leave most of the matrix core unused.
  if (groups > 1 && inputs === 1 && outputs === groups && rows * columns <= MOST_TAPS)
    return emit1('depthwise2d', [x, w], attrs);
  return emit1('conv2d', [x, w], { ...attrs, groups });
}
