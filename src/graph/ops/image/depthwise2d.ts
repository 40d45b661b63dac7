// Convolution in which each channel has its own weights. Taps are written out one after the other over channels that
// lie side by side; each is a fused multiply-add, in row-major order from 0: the same bits as conv2d with as many
// groups as channels.
import { sizes, type TensorType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1 } from '../../tensor.ts';
import { checkFloats, geometry, type Geometry } from './convolution.ts';
import { taps } from './pooling.ts';
import { type WindowAttrs } from './windows.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    depthwise2d: WindowAttrs;
  }
}

export const depthwise = (op: string, x: TensorType, weight: readonly number[], attrs: WindowAttrs): Geometry =>
  geometry(op, x, weight, { ...attrs, groups: weight[3] });

export const depthwise2dOp: Op<WindowAttrs> = {
  // Images x convolved channel by channel with weights w.
  name: 'depthwise2d',
  activations: { inputs: [0, 1], outputs: [0] },
  keepsRows: true,
  takes: ['floats'],
  infer([x, w], attrs) {
    const {
      axes: [rows, columns],
      outputs,
    } = depthwise('depthwise2d', x, sizes(w.shape), attrs);
    checkFloats('depthwise2d', x, w);
    return [{ dtype: x.dtype, shape: [x.shape[0], rows.outputs, columns.outputs, outputs] }];
  },
  grad({ inputs: [x, w], douts: [dy], attrs, needs }) {
    if (!dy) return [null, null];
    return [
      needs[0] ? emit1('depthwise2dGradInput', [dy, w], { ...attrs, size: sizes(x.shape).slice(1, 3) }) : null,
      needs[1] ? emit1('depthwise2dGradWeight', [x, dy], { ...attrs, taps: sizes(w.shape).slice(0, 2) }) : null,
    ];
  },
  lower: {
    kind: 'map',
    weight: 16,
    passes: 9,
    at({ e, inputs: [x, w], attrs }, [n, r, q, c]) {
      const dtype = x.type.dtype,
        zero = e.const(0, dtype),
        { axes, outputs } = depthwise('depthwise2d', x.type, sizes(w.type.shape), attrs);
      return taps(e, axes, r, q).reduce(
        (sum, t) =>
          e.op('fma', [
            e.select(t.inside, x.at([n, t.row, t.column, c]), zero),
            w.linear(e.add([outputs, t.number], c)),
            sum,
          ]),
        zero,
      );
    },
  },
};
