// References of reductions.
import type { RefCall } from '../op.ts';
import { sizes } from '../../base/shape.ts';
import { wrapped } from '../ops/elementwise/elementwise.ts';
import { boundOf, elements, stridesOf } from '../../base/shape.ts';
import { leastOf } from '../../base/dtype.ts';
import type { References } from './references.ts';

export const reduce: References = {
  argMax({ inputs: [x], inTypes: [type], outTypes: [out] }) {
    const n = boundOf(type.shape[type.shape.length - 1]);
    return [
      Float64Array.from({ length: elements(out.shape) }, (_, r) => {
        const row = x.subarray(r * n, r * n + n),
          nan = row.findIndex((v) => Number.isNaN(v));
        return nan >= 0 ? nan : row.reduce((best, v, c) => (v > row[best] ? c : best), 0);
      }),
    ];
  },
  crossEntropy({ inputs: [x, target], outTypes: [type], inTypes: [tx] }) {
    const n = boundOf(tx.shape[tx.shape.length - 1]),
      rows = elements(type.shape);
    const loss = new Float64Array(rows),
      lse = new Float64Array(rows);
    for (let r = 0; r < rows; r++) {
      const row = x.subarray(r * n, r * n + n);
      const max = row.reduce((a, b) => Math.max(a, b), -Infinity);
      lse[r] = max + Math.log(row.reduce((s, v) => s + Math.exp(v - max), 0));
      loss[r] = lse[r] - (row[target[r]] ?? NaN);
    }
    return [loss, lse];
  },
  cumulativeMax({ inputs: [x], inTypes: [{ shape }] }) {
    const n = boundOf(shape[shape.length - 1]),
      values = new Float64Array(x.length),
      indices = new Float64Array(x.length);
    for (let start = 0; start < x.length; start += n) {
      let best = 0;
      for (let c = 0; c < n; c++) {
        const v = x[start + c],
          old = x[start + best];
        if (v > old || (Number.isNaN(v) && !Number.isNaN(old))) best = c;
        values[start + c] = x[start + best];
        indices[start + c] = best;
      }
    }
    return [values, indices];
  },
  cumulativeSum({ inputs: [x], inTypes: [{ dtype, shape }], attrs: { axis, exclusive, reverse } }) {
    const n = boundOf(shape[axis]),
      inner = stridesOf(shape)[axis],
      out = new Float64Array(x.length);
    for (let first = 0; first < x.length; first += n * inner)
      for (let c = 0; c < inner; c++) {
        let sum = 0;
        for (let i = 0; i < n; i++) {
          const at = first + (reverse ? n - 1 - i : i) * inner + c;
          if (exclusive) out[at] = sum;
          sum += x[at];
          if (!exclusive) out[at] = sum;
        }
      }
    return [out.map((v) => wrapped(v, dtype))];
  },
  layerNorm({ inputs: [x, gain, bias], attrs: { eps } }) {
    const n = gain.length,
      rows = n && x.length / n;
    const y = new Float64Array(x.length),
      mean = new Float64Array(rows),
      rstd = new Float64Array(rows);
    for (let r = 0; r < rows; r++) {
      const row = x.subarray(r * n, r * n + n);
      mean[r] = row.reduce((s, v) => s + v, 0) / n;
      rstd[r] = 1 / Math.sqrt(row.reduce((s, v) => s + (v - mean[r]) ** 2, 0) / n + eps);
      row.forEach((v, i) => {
        y[r * n + i] = (v - mean[r]) * rstd[r] * gain[i] + bias[i];
      });
    }
    return [y, mean, rstd];
  },
  logSumExp(call) {
    const {
        inputs: [x],
        inTypes: [type],
        outTypes: [out],
      } = call,
      rank = type.shape.length,
      bound = boundOf(type.shape[rank - 1]);
    const n = rank === 1 ? call.rows(type) : bound;
    return [
      Float64Array.from({ length: elements(out.shape) }, (_, r) => {
        const row = x.subarray(r * bound, r * bound + n),
          most = row.reduce((a, b) => Math.max(a, b), -Infinity),
          max = Number.isFinite(most) ? most : 0;
        return max + Math.log(row.reduce((s, v) => s + Math.exp(v - max), 0));
      }),
    ];
  },
  max: (call) => [reduceReference(call, call.attrs.axes, leastOf(call.inTypes[0].dtype), (a, b) => Math.max(a, b))],
  rmsNorm({ inputs: [x, gain], attrs: { eps } }) {
    const n = gain.length,
      y = new Float64Array(x.length),
      rstd = new Float64Array(n && x.length / n);
    rstd.forEach((_, r) => {
      const row = x.subarray(r * n, r * n + n);
      rstd[r] = 1 / Math.sqrt(row.reduce((s, v) => s + v * v, 0) / n + eps);
      row.forEach((v, i) => {
        y[r * n + i] = v * rstd[r] * gain[i];
      });
    });
    return [y, rstd];
  },
  softmax({ inputs: [x], inTypes: [type] }) {
    const n = boundOf(type.shape[type.shape.length - 1]),
      out = new Float64Array(x.length);
    for (let r = 0; r < x.length; r += n) {
      const row = x.subarray(r, r + n),
        max = row.reduce((a, b) => Math.max(a, b), -Infinity);
      const total = row.reduce((s, v) => s + Math.exp(v - max), 0);
      row.forEach((v, i) => {
        out[r + i] = Math.exp(v - max) / total;
      });
    }
    return [out];
  },
  sort({ inputs: [x], inTypes: [type], outTypes: [out], attrs: { descending }, rows }) {
    const n = boundOf(type.shape[type.shape.length - 1]),
      total = elements(out.shape);
    const [values, indices, places] = [0, 1, 2].map(() => new Float64Array(total)),
      live = type.shape.length === 1 ? total : rows(type) * elements(type.shape.slice(1));
    for (let start = 0; start < live; start += n) {
      const order = Array.from({ length: n }, (_, c) => c).sort((p, q) => {
        const [a, b] = [x[start + p], x[start + q]];
        if (Number.isNaN(a) || Number.isNaN(b)) return Number(Number.isNaN(a)) - Number(Number.isNaN(b)) || p - q;
        return (a === b ? 0 : a < b === descending ? 1 : -1) || p - q;
      });
      order.forEach((c, i) => {
        values[start + i] = x[start + c];
        indices[start + i] = c;
        places[start + c] = i;
      });
    }
    return [values, indices, places];
  },
  sum: (call) => [reduceReference(call, call.attrs.axes, 0, (a, b) => wrapped(a + b, call.outTypes[0].dtype))],
  topK({ inputs: [x], inTypes: [t], outTypes: [o], attrs: { k }, rows }) {
    const width = boundOf(t.shape[1]),
      values = new Float64Array(elements(o.shape)),
      indices = new Float64Array(elements(o.shape));
    for (let r = 0; r < rows(t); r++) {
      bestOf(x, r, width, k).forEach((c, j) => {
        values[r * k + j] = x[r * width + c];
        indices[r * k + j] = c;
      });
    }
    return [values, indices];
  },
};

function reduceReference(
  call: RefCall,
  axes: readonly number[],
  start: number,
  f: (a: number, b: number) => number,
): Float64Array {
  const [type] = call.inTypes,
    dims = sizes(type.shape),
    strides = stridesOf(call.outTypes[0].shape);
  const out = new Float64Array(elements(call.outTypes[0].shape)).fill(start);
  if (dims.length > 0) dims[0] = call.rows(type);
  const outStride = dims.map(() => 0);
  let kept = 0;
  dims.forEach((_, d) => {
    if (!axes.includes(d)) outStride[d] = strides[kept++];
  });
  const at = dims.map(() => 0),
    count = dims.reduce((n, d) => n * d, 1);
  for (let flat = 0; flat < count; flat++) {
    const o = at.reduce((n, i, d) => n + i * outStride[d], 0);
    out[o] = f(out[o], call.inputs[0][flat]);
    for (let d = dims.length - 1; d >= 0 && ++at[d] === dims[d]; d--) at[d] = 0;
  }
  return out;
}

/** The columns of the k largest elements of row r, in the order of the list. For references. */
export function bestOf(x: Float64Array, r: number, width: number, k: number): number[] {
  const key = Array.from(x.subarray(r * width, (r + 1) * width), (v) => (Number.isNaN(v) ? -Infinity : v));
  return [...key.keys()].sort((a, b) => (key[a] < key[b] ? 1 : key[a] > key[b] ? -1 : a - b)).slice(0, k);
}
