// Gradients of attention for its keys and values: dv = sum of p do, dk = sum of ds q, over the heads of queries that
// share the head of keys, and over the queries ascending. A task has 16 keys and goes over the queries that see them.
import type { Op } from '../../op.ts';
import { checkGradientInputs, keyTile } from './attentionKeys.ts';
import { attentionSizes, lanesOf, Samples } from './attentionSamples.ts';
import { ATTENTION_ONCE, type AttentionAttrs } from './attentionTile.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    attentionGradKV: AttentionAttrs;
  }
}

export const attentionGradKVOp: Op<AttentionAttrs> = {
  // Gradients to k and v from q, k, v, start, lse, delta = do . o, do.
  name: 'attentionGradKV',
  keepsRows: true,
  takes: ['floats'],
  infer(inputs, attrs, ids) {
    checkGradientInputs('attentionGradKV', inputs, attrs, ids);
    return [inputs[1], inputs[2]];
  },
  noGrad: ATTENTION_ONCE,
  lower: {
    kind: 'loops',
    strided: [0, 1, 2, 6],
    build(call) {
      const [dk, dv] = call.to,
        sizes = attentionSizes('attentionGradKV', call.inTypes),
        { KV, S } = sizes,
        tiles = new Samples(call, sizes).tiles(KV, S, lanesOf(S, call.limits));
      return {
        grid: { extent: tiles.extent, work: null },
        body(g) {
          const task = tiles.at(g);
          return task.run(keyTile(call, sizes, task, task.tile, { dk, dv }));
        },
      };
    },
  },
};
