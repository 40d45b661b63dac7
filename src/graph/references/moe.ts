// References of mixtures of experts.
import { bestOf } from './reduce.ts';
import { SUM_CHUNK } from '../ops/moe/sumChunks.ts';
import { gatheredRows } from '../ops/moe/routing.ts';
import { sortedChoices } from '../ops/moe/permute.ts';
import { wrapped } from '../ops/elementwise/elementwise.ts';
import { boundOf, elements } from '../../base/shape.ts';
import { partStarts } from '../../base/parts.ts';
import type { References } from './references.ts';

export const moe: References = {
  admit({ inputs: [offsets, order, capacity, , , , rank], outTypes, attrs: { rows, padded, spill, ranked } }) {
    const [to, toOrder, inverse, expert, beyond] = outTypes.map((o) => new Float64Array(boundOf(o.shape[0])));
    let next = 0;
    for (let z = 0; z < capacity.length; z++) {
      const start = next,
        room = Math.max(0, capacity[z]),
        count = offsets[z + 1] - offsets[z];
      for (let i = 0; i < count; i++) {
        const at = offsets[z] + i,
          fits = next < rows && (spill || ((ranked ? rank[at] : i) < room && next - start < room));
        inverse[order[at]] = fits ? next : -1;
        if (fits) {
          toOrder[next] = order[at];
          expert[next++] = z;
        }
      }
      beyond[z] = count - (spill ? Math.min(room, count) : next - start);
      for (const end = Math.min(rows, start + room); padded && next < end; next++) {
        toOrder[next] = -1;
        expert[next] = z;
      }
      to[z + 1] = next;
    }
    return [to, toOrder, inverse, expert, beyond];
  },
  admitAll({ inputs: [offsets, order, capacity], outTypes, attrs: { rows, beyond: most, padded } }) {
    const made = outTypes.map((o) => new Float64Array(boundOf(o.shape[0]))),
      [inside, outside, both, toOrder, inverse, expert, expertBeyond, beyond] = made;
    const experts = capacity.length;
    let next = 0;
    for (let z = 0; z < experts; z++) {
      const start = next,
        room = Math.max(0, capacity[z]),
        count = offsets[z + 1] - offsets[z],
        fit = Math.max(0, Math.min(room, count, rows - next));
      for (let i = 0; i < fit; i++, next++) {
        toOrder[next] = order[offsets[z] + i];
        expert[next] = z;
        inverse[toOrder[next]] = next;
      }
      for (const end = Math.min(rows, start + room); padded && next < end; next++) {
        toOrder[next] = -1;
        expert[next] = z;
      }
      beyond[z] = count - fit;
      inside[z + 1] = both[z + 1] = next;
    }
    const first = next;
    next = 0;
    for (let z = 0; z < experts; z++) {
      for (let i = 0; i < beyond[z]; i++) {
        const choice = order[offsets[z + 1] - beyond[z] + i],
          there = next < most;
        inverse[choice] = there ? first + next : -1;
        if (there) {
          toOrder[first + next] = choice;
          expertBeyond[next++] = z;
        }
      }
      outside[z + 1] = next;
      both[experts + z + 1] = first + next;
    }
    return made;
  },
  choiceStarts({ inputs: [counts], inTypes: [t] }) {
    const [ranges, experts] = t.shape.map(boundOf),
      out = new Float64Array(ranges * experts);
    let next = 0;
    for (let z = 0; z < experts; z++)
      for (let r = 0; r < ranges; r++) {
        out[r * experts + z] = next;
        next += counts[r * experts + z];
      }
    return [out];
  },
  clampCount: ({ inputs: [x], attrs: { bound } }) => [x.map((n) => Math.min(Math.max(n, 0), bound))],
  collect({ inputs: [x, inverse], outTypes: [o], attrs: { k }, rows }) {
    const width = elements(o.shape.slice(1)),
      out = new Float64Array(elements(o.shape)),
      count = rows(o) * k;
    for (let c = 0; c < count; c++)
      for (let i = 0; inverse[c] >= 0 && i < width; i++)
        out[Math.floor(c / k) * width + i] += x[inverse[c] * width + i];
    return [out.map((v) => wrapped(v, o.dtype))];
  },
  combine({ inputs: [x, inverse, , w], inTypes: [, , , tw], outTypes: [o], rows }) {
    const width = elements(o.shape.slice(1)),
      k = boundOf(tw.shape[1]),
      out = new Float64Array(elements(o.shape)),
      count = rows(o) * k;
    for (let c = 0; c < count; c++)
      for (let i = 0; inverse[c] >= 0 && i < width; i++)
        out[Math.floor(c / k) * width + i] += w[c] * x[inverse[c] * width + i];
    return [out];
  },
  combineGradRows({ inputs: [d, w, order], inTypes: [, tw], outTypes: [o], rows }) {
    const width = elements(o.shape.slice(1)),
      k = boundOf(tw.shape[1]),
      out = new Float64Array(elements(o.shape)).fill(NaN);
    for (let r = 0; r < rows(o); r++) {
      for (let i = 0; i < width; i++)
        out[r * width + i] = order[r] < 0 ? 0 : w[order[r]] * d[Math.floor(order[r] / k) * width + i];
    }
    return [out];
  },
  combineGradWeights({ inputs: [d, x, inverse], inTypes: [td], outTypes: [o], rows }) {
    const width = elements(td.shape.slice(1)),
      k = boundOf(o.shape[1]),
      out = new Float64Array(elements(o.shape));
    for (let c = 0; c < rows(o) * k; c++) {
      for (let i = 0; inverse[c] >= 0 && i < width; i++)
        out[c] += d[Math.floor(c / k) * width + i] * x[inverse[c] * width + i];
    }
    return [out];
  },
  combineMany({ inputs: [x, inverse, , w], inTypes: [, , , tw], outTypes: [o], rows }) {
    const width = elements(o.shape.slice(1)),
      k = boundOf(tw.shape[1]),
      out = new Float64Array(elements(o.shape));
    for (let c = 0; c < rows(o) * k; c++) {
      for (let i = 0; inverse[c] >= 0 && i < width; i++)
        out[Math.floor(c / k) * width + i] += w[c] * x[inverse[c] * width + i];
    }
    return [out];
  },
  dispatch(call) {
    const {
      inputs: [x, order],
      outTypes: [o],
      attrs: { k },
    } = call;
    return [gatheredRows(call, x, o, (r) => Math.floor(order[r] / k))];
  },
  expertCapacity({ inputs: [factors], inTypes: [, type], attrs: { share }, rows }) {
    const tokens = rows(type),
      choices = tokens * boundOf(type.shape[1]);
    return [factors.map((f) => Math.min(tokens, Math.ceil((f * choices) / share)))];
  },
  histogram({ inputs: [x, known], inTypes: [t], attrs: { experts, ranges }, rows }) {
    const out = new Float64Array(ranges * experts),
      starts = partStarts(rows(t) * boundOf(t.shape[1]), { parts: ranges, sample: 1 });
    if ((known as Float64Array | undefined)?.every((n) => n !== 0)) return [out];
    for (let r = 0; r < ranges; r++)
      for (let c = starts[r]; c < starts[r + 1]; c++) out[r * experts + Math.min(Math.max(x[c], 0), experts - 1)]++;
    return [out];
  },
  joinRows({ inputs: [a, b], inTypes: [ta, tb], outTypes: [o], rows }) {
    const width = elements(o.shape.slice(1)),
      out = new Float64Array(boundOf(o.shape[0]) * width).fill(NaN);
    out.set(a.subarray(0, rows(ta) * width));
    out.set(b.subarray(0, rows(tb) * width), rows(ta) * width);
    return [out];
  },
  joinSegments(call) {
    const {
      inputs: [offsets, ...parts],
      inTypes: [, ...types],
      outTypes: [o],
    } = call;
    const width = elements(o.shape.slice(1)),
      out = new Float64Array(elements(o.shape)).fill(NaN);
    parts.forEach((p, i) => {
      const size = offsets[i + 1] - offsets[i],
        count = Math.min(size, call.rows(types[i]));
      out.fill(0, offsets[i] * width, offsets[i + 1] * width);
      out.set(p.subarray(0, count * width), offsets[i] * width);
    });
    return [out];
  },
  permute: (call) => sortedChoices(call),
  permuteUnless: (call) =>
    call.inputs[5].every((n) => n !== 0) ? call.inputs.slice(1, 5).map((v) => v.slice()) : sortedChoices(call),
  placeRows({ inputs: [x, , before], inTypes: [t], outTypes: [o], attrs: { start }, rows }) {
    const width = elements(o.shape.slice(1)),
      out = before?.slice() ?? new Float64Array(boundOf(o.shape[0]) * width).fill(NaN);
    out.set(x.subarray(0, rows(t) * width), start * width);
    return [out];
  },
  recalls: ({ inputs: [memory, ids], inTypes: [t] }) => {
    const [slots, words] = t.shape.map(boundOf);
    return [
      Float64Array.from(ids, (id) => Number(id !== -1 && memory[((id >>> 0) % slots) * words] === (id >>> 0) + 1)),
    ];
  },
  recall: ({ inputs: [memory, ids], inTypes: [t], outTypes: [o], attrs: { tokens, k, bits } }) => {
    const [slots, words] = t.shape.map(boundOf),
      each = 32 / bits;
    return [
      Float64Array.from({ length: elements(o.shape) }, (_, i) => {
        const choice = i % (tokens * k),
          word = memory[((ids[Math.floor(i / (tokens * k))] >>> 0) % slots) * words + 1 + Math.floor(choice / each)];
        return Math.floor(word / 2 ** (bits * (choice % each))) % 2 ** bits;
      }),
    ];
  },
  remember({ inputs: [before, ids, choices], inTypes: [t], attrs: { tokens, k, bits } }) {
    const [slots, words] = t.shape.map(boundOf),
      out = before.slice(),
      each = 32 / bits,
      all = tokens * k;
    ids.forEach((id, b) => {
      const row = ((id >>> 0) % slots) * words;
      out.fill(0, row, row + words);
      out[row] = ((id >>> 0) + 1) >>> 0;
      for (let c = 0; c < all; c++)
        out[row + 1 + Math.floor(c / each)] += choices[b * all + c] * 2 ** (bits * (c % each));
    });
    return [out];
  },
  rowCount: (call) => [Float64Array.of(call.rows(call.inTypes[0]))],
  segmentCount: ({ inputs: [offsets], attrs: { segment, bound } }) => [
    Float64Array.of(Math.min(bound, offsets[segment + 1] - offsets[segment])),
  ],
  segmentExpand(call) {
    const [b, expert] = call.inputs;
    return [gatheredRows(call, b, call.outTypes[0], (r) => expert[r])];
  },
  segmentRank({ inputs: [scores, order, expert, offsets], outTypes: [o], rows }) {
    const out = new Float64Array(elements(o.shape)),
      count = rows(o);
    for (let r = 0; r < count; r++) {
      for (let i = offsets[expert[r]]; i < offsets[expert[r] + 1]; i++) {
        const own = scores[order[r]],
          other = scores[order[i]];
        if (other > own || (other === own && i < r)) out[r]++;
      }
    }
    return [out];
  },
  segmentSum(call) {
    const {
        inputs: [x],
        inTypes: [t],
        outTypes: [o],
      } = call,
      offsets = call.offsets(t);
    const width = elements(o.shape.slice(1)),
      out = new Float64Array(elements(o.shape));
    for (let z = 0; z < boundOf(o.shape[0]); z++) {
      for (let r = offsets[z]; r < offsets[z + 1]; r++)
        for (let i = 0; i < width; i++) out[z * width + i] += x[r * width + i];
    }
    return [out.map((v) => wrapped(v, o.dtype))];
  },
  segmentSumOnto(call) {
    const {
        inputs: [x, , , before],
        inTypes: [t],
        outTypes: [o],
      } = call,
      offsets = call.offsets(t);
    const width = elements(o.shape.slice(1)),
      out = before.slice();
    for (let z = 0; z < boundOf(o.shape[0]); z++) {
      for (let r = offsets[z]; r < offsets[z + 1]; r++)
        for (let i = 0; i < width; i++) out[z * width + i] += x[r * width + i];
    }
    return [out];
  },
  splitRows(call) {
    const [x, inside] = call.inputs;
    return call.outTypes.map((t, i) => gatheredRows(call, x, t, (r) => (i === 0 ? 0 : inside[inside.length - 1]) + r));
  },
  splitSegments(call) {
    const [x, offsets] = call.inputs;
    return call.outTypes.map((t, i) => gatheredRows(call, x, t, (r) => offsets[i] + r));
  },
  spreadRows: (call) => [gatheredRows(call, call.inputs[0], call.outTypes[0], (t) => call.inputs[1][t])],
  sumChunks: ({ inputs: [x], inTypes: [{ dtype }] }) => [
    Float64Array.from({ length: Math.ceil(x.length / SUM_CHUNK) }, (_, c) =>
      x.subarray(c * SUM_CHUNK, (c + 1) * SUM_CHUNK).reduce((a, b) => wrapped(a + b, dtype), 0),
    ),
  ],
  topKUnless({ inputs: [x, given, known], inTypes: [t, tg], outTypes: [o] }) {
    const [rows, width] = t.shape.map(boundOf),
      k = boundOf(tg.shape[1]),
      out = new Float64Array(elements(o.shape));
    for (let r = 0; r < rows; r++) {
      const same = known[Math.floor(r / (rows / known.length))] !== 0;
      out.set(same ? given.subarray(r * k, (r + 1) * k) : bestOf(x, r, width, k), r * k);
    }
    return [out];
  },
  windowOffsets: ({ inputs: [offsets], attrs: { start, size } }) => [
    offsets.map((n) => Math.min(Math.max(n - start, 0), size)),
  ],
  windowRows: (call) => [gatheredRows(call, call.inputs[0], call.outTypes[0], (r) => call.attrs.start + r)],
};
