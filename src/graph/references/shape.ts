// References of ops that move elements.
import { areCounted } from '../ops/shape/updateRows.ts';
import { wrapped } from '../ops/elementwise/elementwise.ts';
import { boundOf, elements, isSegmented, sizes, stridesOf } from '../../base/shape.ts';
import { partStarts } from '../../base/parts.ts';
import { isFloat } from '../../base/dtype.ts';
import type { References } from './references.ts';

export const shape: References = {
  concat({ inputs, inTypes, outTypes: [type], attrs: { axis } }) {
    const out = new Float64Array(elements(type.shape)),
      whole = boundOf(type.shape[axis]) * stridesOf(type.shape)[axis];
    let at = 0;
    inputs.forEach((x, k) => {
      const part = boundOf(inTypes[k].shape[axis]) * stridesOf(inTypes[k].shape)[axis];
      for (let i = 0, o = at; i < x.length; i += part, o += whole) out.set(x.subarray(i, i + part), o);
      at += part;
    });
    return [out];
  },
  expand({ inputs: [x], outTypes: [type], attrs }) {
    const dims = sizes(type.shape),
      own = stridesOf(type.shape.filter((_, i) => !attrs.axes.includes(i)));
    const all = stridesOf(type.shape);
    let kept = 0;
    const step = dims.map((_, i) => (attrs.axes.includes(i) ? 0 : own[kept++]));
    const out = new Float64Array(elements(type.shape));
    for (let flat = 0; flat < out.length; flat++) {
      out[flat] = x[dims.reduce((o, d, i) => o + (Math.floor(flat / all[i]) % d) * step[i], 0)];
    }
    return [out];
  },
  flip({ inputs: [x], inTypes: [type], attrs: { axis } }) {
    const step = stridesOf(type.shape)[axis],
      size = boundOf(type.shape[axis]);
    return [Float64Array.from(x, (_, i) => x[i + (size - 1 - 2 * (Math.floor(i / step) % size)) * step])];
  },
  gather(call) {
    const {
      inputs: [table, index],
      inTypes: [type],
      outTypes: [to],
    } = call;
    const width = elements(type.shape.slice(1)),
      rows = call.rows(type);
    const out = new Float64Array(elements(to.shape)).fill(isFloat(to.dtype) && !call.attrs.zeros ? NaN : 0);
    index.forEach((r, i) => {
      if (r >= 0 && r < rows) out.set(table.subarray(r * width, r * width + width), i * width);
    });
    return [out];
  },
  pad({ inputs: [x], inTypes: [from], outTypes: [to], attrs }) {
    const out = new Float64Array(elements(to.shape)),
      run = stridesOf(from.shape)[attrs.axis];
    const [part, whole] = [from, to].map((t) => boundOf(t.shape[attrs.axis]) * run);
    for (let i = 0, o = attrs.before * run; i < x.length; i += part, o += whole) out.set(x.subarray(i, i + part), o);
    return [out];
  },
  readRows({ inputs: [cache, , [start]], inTypes: [tc], outTypes: [o], rows }) {
    const out = new Float64Array(elements(o.shape)),
      width = elements(tc.shape.slice(2)),
      [B, C] = tc.shape.map(boundOf),
      T = areCounted(o) ? rows(o) : boundOf(o.shape[1]);
    for (let b = 0; b < B; b++)
      for (let t = 0; t < T; t++) {
        if (start + t >= 0 && start + t < C)
          out.set(cache.subarray((b * C + start + t) * width, (b * C + start + t + 1) * width), (b * T + t) * width);
      }
    return [out];
  },
  reshape: ({ inputs: [x] }) => [x],
  scatterAdd(call) {
    const {
      inputs: [index, rows],
      inTypes: [ix],
      outTypes: [type],
    } = call;
    const width = elements(type.shape.slice(1)),
      out = new Float64Array(elements(type.shape));
    const count = (ix.shape.length === 0 ? 1 : call.rows(ix)) * elements(ix.shape.slice(1)),
      height = call.rows(type);
    for (let t = 0; t < count; t++) {
      if (!(index[t] >= 0 && index[t] < height)) continue;
      for (let c = 0; c < width; c++) out[index[t] * width + c] += rows[t * width + c];
    }
    return [out.map((v) => wrapped(v, type.dtype))];
  },
  scatterAddParts(call) {
    const {
      inputs: [index, rows],
      inTypes: [ix],
      outTypes: [type],
      attrs: { parts, sample },
    } = call;
    const width = elements(type.shape.slice(1)),
      per = elements(ix.shape.slice(1)),
      count = call.rows(ix) * per,
      height = call.rows(type),
      offsets = isSegmented(ix.shape[0]) ? call.offsets(ix) : undefined,
      starts = partStarts(count, { parts, sample: sample * per }, offsets);
    let sums = Array.from({ length: parts }, (_, p) => {
      const out = new Float64Array(elements(type.shape));
      for (let t = starts[p]; t < starts[p + 1]; t++) {
        if (!(index[t] >= 0 && index[t] < height)) continue;
        for (let c = 0; c < width; c++) out[index[t] * width + c] += rows[t * width + c];
      }
      return out;
    });
    while (sums.length > 1)
      sums = Array.from({ length: sums.length / 2 }, (_, i) => sums[2 * i].map((v, j) => v + sums[2 * i + 1][j]));
    return [sums[0].map((v) => wrapped(v, type.dtype))];
  },
  slice({ inputs: [x], inTypes: [from], outTypes: [to], attrs }) {
    const out = new Float64Array(elements(to.shape)),
      run = stridesOf(from.shape)[attrs.axis];
    const [whole, part] = [from, to].map((t) => boundOf(t.shape[attrs.axis]) * run);
    for (let o = 0, i = attrs.from * run; o < out.length; o += part, i += whole) out.set(x.subarray(i, i + part), o);
    return [out];
  },
  sortInGroups({ inputs: [index, order, offsets], attrs: { rows, height } }) {
    const to = new Float64Array(rows + 1),
      toOrder = new Float64Array(order.length);
    for (let g = 0; g + 1 < offsets.length; g++) {
      const first = g * height,
        last = Math.min(rows, first + height) - 1,
        own = Array.from(order.subarray(offsets[g], offsets[g + 1])),
        rowOf = (c: number): number => Math.min(Math.max(index[c], first), last);
      let next = offsets[g];
      for (let r = first; r <= last; r++) {
        to[r] = next;
        for (const c of own) if (rowOf(c) === r) toOrder[next++] = c;
      }
      to[rows] = next;
    }
    return [to, toOrder];
  },
  takeAlong({ inputs: [x, index], inTypes: [tx, ti], attrs }) {
    const zeros = attrs.zeros || !isFloat(tx.dtype);
    const n = boundOf(tx.shape[tx.shape.length - 1]),
      k = boundOf(ti.shape[ti.shape.length - 1]);
    return [Float64Array.from(index, (c, i) => (c >= 0 && c < n ? x[Math.floor(i / k) * n + c] : zeros ? 0 : NaN))];
  },
  putAlong({ inputs: [index, values], inTypes: [ti], outTypes: [type] }) {
    const n = boundOf(type.shape[type.shape.length - 1]),
      k = boundOf(ti.shape[ti.shape.length - 1]);
    const out = new Float64Array(elements(type.shape));
    index.forEach((c, i) => {
      if (c >= 0 && c < n) out[Math.floor(i / k) * n + c] += values[i];
    });
    return [out.map((v) => wrapped(v, type.dtype))];
  },
  transpose({ inputs: [x], inTypes: [from], outTypes: [to], attrs: { order } }) {
    const dims = sizes(to.shape),
      strides = stridesOf(from.shape),
      own = stridesOf(to.shape);
    const out = new Float64Array(elements(to.shape));
    for (let flat = 0; flat < out.length; flat++) {
      out[flat] = x[dims.reduce((o, d, i) => o + (Math.floor(flat / own[i]) % d) * strides[order[i]], 0)];
    }
    return [out];
  },
  updateRows({ inputs: [cache, rows, [start]], inTypes: [tc, tr], rows: count }) {
    const out = cache.slice(),
      width = elements(tc.shape.slice(2)),
      [B, C] = tc.shape.map(boundOf),
      T = areCounted(tr) ? count(tr) : boundOf(tr.shape[1]);
    for (let b = 0; b < B; b++)
      for (let t = 0; t < T; t++) {
        if (start + t >= 0 && start + t < C)
          out.set(rows.subarray((b * T + t) * width, (b * T + t + 1) * width), (b * C + start + t) * width);
      }
    return [out];
  },
};
