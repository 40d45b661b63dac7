// All gradients of attention at once: the results of attentionGradQ and attentionGradKV, bit for bit, with the scores
// computed once. A task has all keys of one batch entry and one head of keys, so there must be enough of these pairs to
// keep the threads busy.
import type { Op } from '../../op.ts';
import { checkGradientInputs, keyTile, keyTiles } from './attentionKeys.ts';
import { attentionGradKVOp } from './attentionGradKV.ts';
import { attentionGradQOp } from './attentionGradQ.ts';
import { attentionSizes, ATTENTION_ONCE, type AttentionAttrs } from './attentionTile.ts';

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
  infer(inputs, attrs) {
    checkGradientInputs('attentionGrad', inputs, attrs);
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
        { T, H, KV, D } = sizes;
      return {
        grid: { extent: sizes.B * KV, work: null },
        body: (g) => [
          w.loop(keyTiles(sizes, call.limits), (tile) => keyTile(call, sizes, g, tile, { dq, dk, dv })),
          // + 0 turns -0 into +0.
          w.loop(H / KV, (sharer) => [
            w.loop(T, (i) => [
              w.vector(D, (d) => {
                const at = dq.at([e.div(g, KV), i, e.add([H / KV, e.mod(g, KV)], sharer), d]);
                return [
                  w.store(dq.buffer, at, e.op('add', [w.load(dq.buffer, at), e.const(0, call.inTypes[0].dtype)])),
                ];
              }),
            ]),
          ]),
        ],
      };
    },
  },
  reference: (call) => [...attentionGradQOp.reference(call), ...attentionGradKVOp.reference(call)],
};
