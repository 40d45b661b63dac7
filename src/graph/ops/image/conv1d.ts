// Convolution of sequences: that of images with one row.
import { ShapeError } from '../../../base/errors.ts';
import { aNumber, aWhole, either, oneOf, type Kind } from '../../../base/kinds.ts';
import { checkOptions, type KeysOf } from '../../../base/options.ts';
import { boundOf, showType, sizes } from '../../../base/shape.ts';
import { checkTensors, type Tensor } from '../../tensor.ts';
import { reshape } from '../shape/reshape.ts';
import { conv2d } from './conv2d.ts';

export interface Conv1dOptions {
  /** Whole numbers of at least 1; default 1. */
  readonly stride?: number;
  readonly dilation?: number;
  /**
   * Zeros at each end, or [before, after]: [dilation * (taps - 1), 0] makes the convolution causal. 'same': as many as
   * make the output ceil(time / stride). Default 0.
   */
  readonly padding?: number | readonly [before: number, after: number] | 'same';
  /** Number of groups of channels; default 1. */
  readonly groups?: number;
}
const aTwo: Kind = (value) =>
  Array.isArray(value) &&
  value.length === 2 &&
  value.every((n) => typeof n === 'number' && Number.isInteger(n) && n >= 0)
    ? null
    : 'a list of 2 whole numbers of at least 0';
export const CONV1D_KEYS: KeysOf<Conv1dOptions> = {
  stride: aWhole(1),
  dilation: aWhole(1),
  padding: either(oneOf('same'), either(aWhole(0), aTwo)),
  groups: aNumber,
};

/**
 * y[n, t, o] = sum over taps s and channels c of x[n, t * stride - before + s * dilation, c] w[s, c, o]: x [N, time,
 * inputs], w [taps, inputs / groups, outputs] -> [N, time', outputs] with time' = floor((time + before + after -
 * dilation (taps - 1) - 1) / stride) + 1. Computed as `ops.conv2d` of images with one row, with its gradients. N may
 * vary at run time. ShapeError where they do not fit.
 */
export function conv1d(x: Tensor, w: Tensor, options: Conv1dOptions = {}): Tensor {
  checkOptions('conv1d', options, CONV1D_KEYS);
  checkTensors('conv1d', x, w);
  const { stride = 1, dilation = 1, padding = 0, groups = 1 } = options;
  if (x.shape.length !== 3 || w.shape.length !== 3)
    throw new ShapeError(
      `conv1d: sequences are [count, time, channels] and weights [taps, inputs / groups, outputs], got ` +
        `${showType(x.type)} and ${showType(w.type)}`,
    );
  const [count, time, inputs] = sizes(x.shape),
    y = conv2d(reshape(x, [count, 1, time, inputs]), reshape(w, [1, ...sizes(w.shape)]), {
      stride: [1, stride],
      dilation: [1, dilation],
      padding: padding === 'same' ? padding : typeof padding === 'number' ? [0, padding] : [0, 0, ...padding],
      groups,
    });
  return reshape(y, [count, boundOf(y.shape[2]), boundOf(y.shape[3])]);
}
