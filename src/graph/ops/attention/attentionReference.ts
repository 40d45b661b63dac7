// The gradients of attention in plain loops, for references.
import type { RefCall } from '../../op.ts';
import { GRADIENT_INPUTS } from './attentionKeys.ts';
import { maskReference } from './attentionMask.ts';
import { attentionSizes, type AttentionAttrs } from './attentionTile.ts';

/**
 * Calls back for each query and each key that it sees: where their rows begin, the weight p, and the gradient of the
 * score before scaling.
 */
export function scoreGradients(
  call: RefCall<AttentionAttrs>,
  visit: (query: number, key: number, p: number, ds: number) => void,
): void {
  const {
    inputs: [q, k, v, [start], lse, delta, dout],
    inTypes,
    attrs: { causal, scale },
  } = call;
  const { B, T, S, H, KV, D } = attentionSizes('attention', inTypes),
    plus = maskReference(call, GRADIENT_INPUTS);
  for (let b = 0; b < B; b++)
    for (let h = 0; h < H; h++)
      for (let i = 0; i < T; i++) {
        const query = ((b * T + i) * H + h) * D,
          stat = (b * T + i) * H + h,
          end = causal ? Math.min(S, start + i + 1) : S;
        for (let j = 0; j < end; j++) {
          const more = plus(b, h, i, j);
          if (more === -Infinity) continue;
          const key = ((b * S + j) * KV + Math.floor(h / (H / KV))) * D;
          let score = 0,
            dp = 0;
          for (let d = 0; d < D; d++) {
            score += q[query + d] * k[key + d];
            dp += dout[query + d] * v[key + d];
          }
          const p = Math.exp(score * scale + more - lse[stat]);
          visit(query, key, p, p * (dp - delta[stat]) * scale);
        }
      }
}
