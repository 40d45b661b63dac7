// All gradients of attention at once: what attentionGradQ and attentionGradKV give, bit for bit, with the scores computed once. A
// task has all keys of a batch entry and a head of keys, so this is for where there are enough of these.
import { elements } from '../../base/shape.ts';
import type { Op } from '../op.ts';
import { GRADIENT_INPUTS, keyTile, keyTiles } from './attentionKeys.ts';
import { checkMasks } from './attentionMask.ts';
import { scoreGradients } from './attentionReference.ts';
import { attentionSizes, ATTENTION_ONCE, type AttentionAttrs } from './attentionTile.ts';

export const attentionGradOp: Op<AttentionAttrs> = {
  // Gradients to q, k and v from q, k, v, start, lse, delta = do . o, do.
  name: 'attentionGrad',
  infer(inputs, attrs) {
    checkMasks('attentionGrad', inputs, GRADIENT_INPUTS, attrs, attentionSizes('attentionGrad', inputs));
    return inputs.slice(0, 3);
  },
  noGrad: ATTENTION_ONCE,
  lower: { kind: 'loops', update: true, build(call) {
    const { k: w, outputs: [dq, dk, dv] } = call, sizes = attentionSizes('attentionGrad', call.inTypes);
    return { grid: { extent: sizes.B * sizes.KV, grain: 1 }, body: (g) => [w.loop(keyTiles(sizes), (tile) => keyTile(call, sizes, g, tile, { dq, dk, dv }))] };
  } },
  reference(call) {
    const { inputs: [q, k, , , , , dout], inTypes, outTypes: [oq, ok] } = call, { D } = attentionSizes('attentionGrad', inTypes);
    const dq = new Float64Array(elements(oq.shape)), dk = new Float64Array(elements(ok.shape)), dv = dk.slice();
    scoreGradients(call, (query, key, p, ds) => {
      for (let d = 0; d < D; d++) {
        dq[query + d] += ds * k[key + d];
        dk[key + d] += ds * q[query + d];
        dv[key + d] += p * dout[query + d];
      }
    });
    return [dq, dk, dv];
  },
};
