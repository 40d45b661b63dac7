// Attention in plain loops, for references.
import { places } from '../ops/attention/attentionMask.ts';
import { stepsOf } from '../ops/attention/attentionMask.ts';
import type { RefCall } from '../op.ts';
import { GRADIENT_INPUTS } from '../ops/attention/attentionKeys.ts';
import { attentionSizes } from '../ops/attention/attentionSamples.ts';
import type { AttentionAttrs } from '../ops/attention/attentionTile.ts';

interface Sample {
  readonly b: number;
  readonly queries: number;
  /** The row of q that holds query i, and the row of k that holds key j. */
  query(i: number): number;
  key(j: number): number;
  /** How many keys query i sees, apart from masks. */
  seen(i: number): number;
}

/** All samples, in each form of attention. */
export function eachSample({ inputs, inTypes, attrs, rows, offsets }: RefCall<AttentionAttrs>): Sample[] {
  const { form, B, T, S } = attentionSizes('attention', inTypes),
    of = form === 'rows' ? offsets(inTypes[0]) : null;
  return Array.from({ length: B }, (_, b) => {
    const from = of ? of[b] : b * T,
      queries = of ? Math.max(0, of[b + 1] - from) : form === 'cached' ? rows(inTypes[0]) : T,
      keys = of ? queries : S,
      start = of ? 0 : inputs[3][0];
    return {
      b,
      queries,
      query: (i) => from + i,
      key: (j) => (of ? from : b * S) + j,
      seen: (i) => (attrs.causal ? Math.max(0, Math.min(keys, start + i + 1)) : keys),
    };
  });
}

/**
 * Calls back for each query and each key that it sees: where their rows begin, the weight p, and the gradient of the
 * score before scaling.
 */
export function scoreGradients(
  call: RefCall<AttentionAttrs>,
  visit: (query: number, key: number, p: number, ds: number) => void,
): void {
  const {
    inputs: [q, k, v, , lse, delta, dout],
    attrs: { scale },
  } = call;
  const { H, KV, D } = attentionSizes('attention', call.inTypes),
    plus = maskReference(call, GRADIENT_INPUTS);
  for (const { b, queries, query, key, seen } of eachSample(call))
    for (let h = 0; h < H; h++)
      for (let i = 0; i < queries; i++) {
        const own = (query(i) * H + h) * D,
          stat = query(i) * H + h,
          end = seen(i);
        for (let j = 0; j < end; j++) {
          const more = plus(b, h, i, j);
          if (more === -Infinity) continue;
          const other = (key(j) * KV + Math.floor(h / (H / KV))) * D;
          let score = 0,
            dp = 0;
          for (let d = 0; d < D; d++) {
            score += q[own + d] * k[other + d];
            dp += dout[own + d] * v[other + d];
          }
          const p = Math.exp(score * scale + more - lse[stat]);
          visit(own, other, p, p * (dp - delta[stat]) * scale);
        }
      }
}

/** What is added to a score before the softmax: -Infinity for a key that is not seen. For references. */
export function maskReference(
  { inputs, inTypes, attrs }: RefCall<AttentionAttrs>,
  base: number,
): (b: number, h: number, i: number, j: number) => number {
  const at = places(attrs, base),
    mask = at.mask < 0 ? null : inputs[at.mask],
    lengths = at.lengths < 0 ? null : inputs[at.lengths];
  const steps = mask ? stepsOf(inTypes[at.mask].shape) : [],
    bool = mask !== null && inTypes[at.mask].dtype === 'bool';
  return (b, h, i, j) => {
    if (lengths && j >= lengths[b]) return -Infinity;
    if (!mask) return 0;
    const value = mask[b * steps[0] + h * steps[1] + i * steps[2] + j * steps[3]];
    return bool ? (value ? 0 : -Infinity) : value;
  };
}
