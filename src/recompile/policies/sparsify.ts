// The policy sparsify: changes `topK` from 2 to 1 in a layer whose second choices have almost no weight, and back when
// second choices would have weight again. Results change by about the weight of second choices; the layer's work
// halves.
import { UserError } from '../../base/errors.ts';
import type { KeysOf } from '../../base/options.ts';
import { aNumber } from '../../base/kinds.ts';
import type { MoE } from '../../nn/moe/moe.ts';
import type { LayerStats } from '../../observe/run-stats.ts';
import { checkPolicy, layersOf, timeToLook } from './modules.ts';
import type { Rule } from '../rule.ts';

export interface SparsifyOptions {
  /** Moving average of the second choice's mean weight below which a layer needs one expert a token; default 0.02. */
  readonly below?: number;
  /** The same average above which a layer needs two experts a token again; default 0.06. */
  readonly above?: number;
  /** Steps between two changes, and before the first; default 200. */
  readonly cooldown?: number;
}

const KEYS: KeysOf<SparsifyOptions> = { below: aNumber, above: aNumber, cooldown: aNumber };

/**
 * `topK: 2` becomes 1 in layers whose second choice weighs less than `below`, and 2 again where it would weigh more
 * than `above`. Results change.
 */
export function sparsify(options: SparsifyOptions = {}): Rule<object> {
  checkPolicy('sparsify', options, KEYS);
  const { below = 0.02, above = Math.max(0.06, below), cooldown = 200 } = options;
  if (!(below <= above))
    throw new UserError(
      `sparsify: below (${below}) must not be greater than above (${above})`,
      'the gap between them prevents a layer from changing back and forth',
    );
  const wanted = ({ topK }: MoE, { secondGateWeightEma: weight }: LayerStats): number =>
    topK === 2 && weight < below ? 1 : topK === 1 && weight > above ? 2 : topK;
  return {
    name: 'sparsify',
    cooldown,
    trigger: (run) => run.step >= cooldown && timeToLook(run),
    alter(model, run) {
      for (const [moe, layer] of layersOf(model, run)) moe.topK = wanted(moe, layer);
    },
    reason: (run) =>
      `mean weight of second choices: ${run.layers.map((l) => l.secondGateWeightEma.toFixed(3)).join(', ')}`,
  };
}
