// References of attention.
import type { RefCall } from '../op.ts';
import type { AttentionAttrs } from '../ops/attention/attentionTile.ts';
import { attentionSizes } from '../ops/attention/attentionSamples.ts';
import { eachSample, scoreGradients } from './attention-pairs.ts';
import { maskReference } from './attention-pairs.ts';
import { OWN } from '../ops/attention/attention.ts';
import { boundOf, elements } from '../../base/shape.ts';
import type { References } from './references.ts';

export const attention: References = {
  attention(call) {
    const {
        inputs: [q, k, v],
        outTypes: [to, tl],
        attrs: { scale, masked, lengths },
      } = call,
      plus = maskReference(call, OWN);
    const { H, KV, D } = attentionSizes('attention', call.inTypes),
      o = new Float64Array(elements(to.shape)),
      lse = new Float64Array(elements(tl.shape));
    for (const { b, queries, query, key, seen } of eachSample(call))
      for (let i = 0; i < queries; i++)
        for (let h = 0; h < H; h++) {
          const own = (query(i) * H + h) * D,
            other = (j: number): number => (key(j) * KV + Math.floor(h / (H / KV))) * D;
          const scores = Array.from({ length: seen(i) }, (_, j) => {
            let dot = 0;
            for (let d = 0; d < D; d++) dot += q[own + d] * k[other(j) + d];
            return dot * scale + plus(b, h, i, j);
          });
          const max = scores.reduce((x, y) => Math.max(x, y), -Infinity),
            p = scores.map((x) => Math.exp(x - max)),
            sum = p.reduce((x, y) => x + y, 0);
          if ((masked || lengths) && max === -Infinity) {
            lse[query(i) * H + h] = max;
            continue;
          }
          lse[query(i) * H + h] = max + Math.log(sum);
          for (let d = 0; d < D; d++) o[own + d] = p.reduce((x, y, j) => x + y * v[other(j) + d], 0) / sum;
        }
    return [o, lse];
  },
  attentionGrad: (call) => [...attentionGradQ(call), ...attentionGradKV(call)],
  attentionGradKV,
  attentionGradQ,
  rope({ inputs: [x, cos, sin], outTypes: [{ shape }], attrs: { inverse } }) {
    const [time, heads, width] = shape.slice(-3).map(boundOf),
      half = width / 2,
      out = new Float64Array(x.length);
    for (let row = 0; row * width < x.length; row++) {
      const t = Math.floor(row / heads) % time;
      for (let j = 0; j < half; j++) {
        const at = row * width + j,
          c = cos[t * half + j],
          s = inverse ? -sin[t * half + j] : sin[t * half + j];
        out[at] = x[at] * c - x[at + half] * s;
        out[at + half] = x[at + half] * c + x[at] * s;
      }
    }
    return [out];
  },
  rowPosition({ inTypes: [x], outTypes: [o], rows, offsets }) {
    const [first] = o.shape,
      out = new Float64Array(typeof first === 'object' ? first.bound : 0),
      starts = typeof first === 'object' && first.kind === 'segmented' ? Array.from(offsets(x)) : [0];
    for (let r = 0; r < rows(o); r++) out[r] = r - (starts.findLast((start) => start <= r) ?? 0);
    return [out];
  },
};

function attentionGradQ(call: RefCall<AttentionAttrs>): Float64Array[] {
  const {
      inputs: [q, k],
      inTypes,
    } = call,
    { D } = attentionSizes('attentionGradQ', inTypes),
    dq = new Float64Array(q.length);
  scoreGradients(call, (query, key, _, ds) => {
    for (let d = 0; d < D; d++) dq[query + d] += ds * k[key + d];
  });
  return [dq];
}

function attentionGradKV(call: RefCall<AttentionAttrs>): Float64Array[] {
  const {
      inputs: [q, k, , , , , dout],
      inTypes,
    } = call,
    { D } = attentionSizes('attentionGradKV', inTypes);
  const dk = new Float64Array(k.length),
    dv = dk.slice();
  scoreGradients(call, (query, key, p, ds) => {
    for (let d = 0; d < D; d++) {
      dk[key + d] += ds * q[query + d];
      dv[key + d] += p * dout[query + d];
    }
  });
  return [dk, dv];
}
