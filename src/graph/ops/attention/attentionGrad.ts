// All gradients of attention at once: the results of attentionGradQ and attentionGradKV, bit for bit, with the scores
// computed once. A task has all keys of one batch entry and one head of keys, so there must be enough of these pairs to
// keep the threads busy.
import type { Op } from '../../op.ts';
import { checkGradientInputs, keyTile } from './attentionKeys.ts';
import { attentionSizes, lanesOf, Samples } from './attentionSamples.ts';
import { ATTENTION_ONCE, type AttentionAttrs } from './attentionTile.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    attentionGrad: AttentionAttrs;
  }
}

export const attentionGradOp: Op<AttentionAttrs> = {
  // Gradients to q, k and v from q, k, v, start, lse, delta = do . o, do.
  name: 'attentionGrad',
  keepsRows: true,
  takes: ['floats'],
  infer(inputs, attrs, ids) {
    checkGradientInputs('attentionGrad', inputs, attrs, ids);
    return inputs.slice(0, 3);
  },
  noGrad: ATTENTION_ONCE,
  lower: {
    kind: 'loops',
    update: true,
    strided: [0, 1, 2, 6],
    build(call) {
      const {
          e,
          k: w,
          to: [dq, dk, dv],
        } = call,
        sizes = attentionSizes('attentionGrad', call.inTypes),
        { B, S, H, KV, D } = sizes,
        L = lanesOf(S, call.limits),
        samples = new Samples(call, sizes);
      return {
        grid: { extent: B * KV, work: null },
        body(g) {
          const pair = samples.pair(KV, g),
            { sample } = pair;
          return [
            ...sample.setup,
            w.loop(e.div(e.add(sample.keys, L - 1), L), (tile) => keyTile(call, sizes, pair, tile, { dq, dk, dv })),
            // + 0 turns -0 into +0.
            w.loop(H / KV, (sharer) => [
              w.loop(sample.queries, (i) => [
                w.vector(D, (d) => {
                  const at = dq.at(sample.query(i, e.add([H / KV, pair.head], sharer), d));
                  return [
                    w.store(dq.buffer, at, e.op('add', [w.load(dq.buffer, at), e.const(0, call.inTypes[0].dtype)])),
                  ];
                }),
              ]),
            ]),
          ];
        },
      };
    },
  },
};
