// References of ops on images.
import type { Axis } from '../ops/image/windows.ts';
import { placeIn } from '../ops/image/windows.ts';
import type { TensorType } from '../../base/shape.ts';
import type { RefCall } from '../op.ts';
import type { Geometry } from '../ops/image/convolution.ts';
import { imagesOf } from '../ops/image/windows.ts';
import { poolAxes } from '../ops/image/pooling.ts';
import { gradWeightGeometry } from '../ops/image/depthwise2dGradWeight.ts';
import { gradInputGeometry } from '../ops/image/depthwise2dGradInput.ts';
import { depthwise } from '../ops/image/depthwise2d.ts';
import { geometry } from '../ops/image/convolution.ts';
import { gradWeightShapes } from '../ops/image/conv2dGradWeight.ts';
import { gradInputShapes } from '../ops/image/conv2dGradInput.ts';
import { shares } from '../ops/image/avgPool2d.ts';
import { boundOf, elements, sizes } from '../../base/shape.ts';
import type { References } from './references.ts';

export const image: References = {
  avgPool2d(call) {
    const {
        inputs: [x],
        inTypes: [type],
        outTypes: [to],
        attrs,
      } = call,
      { out, images } = resultOf(call, to),
      axes = poolAxes('avgPool2d', type, attrs);
    const share = shares(axes, attrs.padded),
      C = sizes(type.shape)[3];
    eachTap(axes, images, C, (y, i) => {
      out[y] += x[i] * share[Math.floor(y / C) % share.length];
    });
    return [out];
  },
  avgPool2dGrad(call) {
    const {
        inputs: [dy],
        outTypes: [x],
        attrs,
      } = call,
      { out, images } = resultOf(call, x),
      axes = poolAxes('avgPool2dGrad', x, attrs);
    const share = shares(axes, attrs.padded),
      C = sizes(x.shape)[3];
    eachTap(axes, images, C, (y, i) => {
      out[i] += dy[y] * share[Math.floor(y / C) % share.length];
    });
    return [out];
  },
  conv2d: (call) =>
    sumTerms(call, geometry('conv2d', call.inTypes[0], sizes(call.inTypes[1].shape), call.attrs), [2, 0, 1]),
  conv2dGradInput: (call) => sumTerms(call, gradInputShapes(call.inTypes[0], call.inTypes[1], call.attrs).g, [0, 2, 1]),
  conv2dGradWeight: (call) =>
    sumTerms(call, gradWeightShapes(call.inTypes[0], call.inTypes[1], call.attrs).g, [1, 0, 2]),
  depthwise2d: (call) =>
    sumTerms(call, depthwise('depthwise2d', call.inTypes[0], sizes(call.inTypes[1].shape), call.attrs), [2, 0, 1]),
  depthwise2dGradInput: (call) =>
    sumTerms(call, gradInputGeometry(call.inTypes[0], call.inTypes[1], call.attrs), [0, 2, 1]),
  depthwise2dGradWeight: (call) =>
    sumTerms(call, gradWeightGeometry(call.inTypes[0], call.inTypes[1], call.attrs), [1, 0, 2]),
  maxPool2d(call) {
    const {
        inputs: [x],
        inTypes: [type],
        outTypes: [to],
        attrs,
      } = call,
      { out, images } = resultOf(call, to),
      which = new Float64Array(elements(to.shape));
    const found = new Uint8Array(out.length);
    eachTap(poolAxes('maxPool2d', type, attrs), images, sizes(type.shape)[3], (y, i, tap) => {
      if (found[y] && !(x[i] > out[y] || (Number.isNaN(x[i]) && !Number.isNaN(out[y])))) return;
      found[y] = 1;
      out[y] = x[i];
      which[y] = tap;
    });
    return [out, which];
  },
  maxPool2dGrad(call) {
    const {
        inputs: [dy, which],
        inTypes: [type],
        outTypes: [x],
        attrs,
      } = call,
      { out, images } = resultOf(call, x);
    eachTap(poolAxes('maxPool2dGrad', x, attrs), images, sizes(type.shape)[3], (y, i, tap) => {
      if (which[y] === tap) out[i] += dy[y];
    });
    return [out];
  },
  maxPool2dTake(call) {
    const {
        inputs: [x, which],
        inTypes: [type],
        outTypes: [to],
        attrs,
      } = call,
      { out, images } = resultOf(call, to);
    eachTap(poolAxes('maxPool2dTake', type, attrs), images, boundOf(type.shape[3]), (y, i, tap) => {
      if (which[y] === tap) out[y] = x[i];
    });
    return [out];
  },
};

/**
 * For references: one factor of the form from the two others, which are the inputs. The numbers say, of the result and
 * of each input, which argument of `visit` is its index.
 */
function sumTerms(call: RefCall, g: Geometry, [to, first, second]: readonly [number, number, number]): Float64Array[] {
  const [a, b] = call.inputs,
    { out } = resultOf(call, call.outTypes[0]);
  eachTerm(g, imagesOf(call, call.inTypes[0]), (...at) => {
    out[at[to]] += a[at[first]] * b[at[second]];
  });
  return [out];
}

/** An array for the result; rows beyond the count are NaN. */
function resultOf(call: RefCall, type: TensorType): { out: Float64Array; images: number } {
  const images = imagesOf(call, type),
    out = new Float64Array(elements(type.shape));
  return { out: out.fill(NaN, images * elements(type.shape.slice(1))), images };
}

/**
 * In numbers: calls `visit` with the linear indices of each pooled element and of each element of its window, and the
 * number of the tap.
 */
function eachTap(
  [rows, columns]: readonly [Axis, Axis],
  images: number,
  channels: number,
  visit: (y: number, x: number, tap: number) => void,
): void {
  for (let n = 0; n < images; n++)
    for (let r = 0; r < rows.outputs; r++)
      for (let q = 0; q < columns.outputs; q++) {
        for (let s = 0; s < rows.taps; s++)
          for (let t = 0; t < columns.taps; t++) {
            const h = placeIn(rows, r, s),
              v = placeIn(columns, q, t);
            if (h === null || v === null) continue;
            const y = ((n * rows.outputs + r) * columns.outputs + q) * channels,
              x = ((n * rows.size + h) * columns.size + v) * channels;
            for (let c = 0; c < channels; c++) visit(y + c, x + c, s * columns.taps + t);
          }
      }
}

/** Goes through all terms of the form: `visit` gets the linear indices of x, w and y. */
function eachTerm(g: Geometry, images: number, visit: (x: number, w: number, y: number) => void): void {
  const {
    axes: [rows, columns],
    groups,
    groupInputs: I,
    groupOutputs: O,
    inputs,
    outputs,
  } = g;
  for (let n = 0; n < images; n++)
    for (let r = 0; r < rows.outputs; r++)
      for (let q = 0; q < columns.outputs; q++) {
        for (let s = 0; s < rows.taps; s++)
          for (let t = 0; t < columns.taps; t++) {
            const h = placeIn(rows, r, s),
              v = placeIn(columns, q, t);
            if (h === null || v === null) continue;
            const x = ((n * rows.size + h) * columns.size + v) * inputs,
              y = ((n * rows.outputs + r) * columns.outputs + q) * outputs;
            const w = (s * columns.taps + t) * I * outputs;
            for (let z = 0; z < groups; z++)
              for (let c = 0; c < I; c++)
                for (let o = 0; o < O; o++) visit(x + z * I + c, w + c * outputs + z * O + o, y + z * O + o);
          }
      }
}
