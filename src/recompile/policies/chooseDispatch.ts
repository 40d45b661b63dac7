// The policy chooseDispatch: of the two strategies that give the same bits, it chooses the one that computes fewer
// rows. `padded` computes each expert's whole capacity, `ragged` only the rows that came. As for every change that
// keeps all bits, the engine measures whether the new plan is faster.
import type { KeysOf } from '../../base/options.ts';
import { aNumber } from '../../base/kinds.ts';
import { checkPolicy, expertCount, factorsOf, layersOf, timeToLook } from './modules.ts';
import type { Rule } from '../rule.ts';

export interface ChooseDispatchOptions {
  /** Rows that padding must add to the rows that came, as a share, for `ragged` to be tried; default 0.02. */
  readonly padding?: number;
  readonly cooldown?: number;
}

const KEYS: KeysOf<ChooseDispatchOptions> = { padding: aNumber, cooldown: aNumber };

/** `padded` becomes `ragged` where empty rows are more than the share `padding` of the rows that came. Results stay
 * identical. */
export function chooseDispatch(options: ChooseDispatchOptions = {}): Rule<object> {
  checkPolicy('chooseDispatch', options, KEYS);
  const { padding = 0.02, cooldown = 200 } = options;
  return {
    name: 'chooseDispatch',
    cooldown,
    only: 'N',
    trigger: timeToLook,
    alter(model, run) {
      for (const [moe, layer] of layersOf(model, run)) {
        // Experts that choose tokens fill all their rows.
        if (moe.dispatch !== 'padded' || moe.router.expertsChoose === true) continue;
        // Counts must be of one part of the batch, as `load` is; `dropped` and `spilled` are sums over all parts.
        const total = layer.load.reduce((a, b) => a + b, 0),
          factors = factorsOf(moe, layer.experts),
          caps = factors?.map((f) => Math.ceil((f * total) / expertCount(moe)));
        const beyond = caps ? layer.load.reduce((n, load, e) => n + Math.max(0, load - caps[e]), 0) : 0,
          spills = moe.overflow === 'spill';
        const came = spills ? total : total - beyond,
          computed = caps ? caps.reduce((a, b) => a + b, spills ? beyond : 0) : Infinity;
        if (computed > (1 + padding) * came) moe.dispatch = 'ragged';
      }
    },
    reason: () => 'time is spent on empty rows',
  };
}
