// The policy specialise: kernels for as many rows as experts get. Tiles and tasks follow the true counts in every step,
// by themselves; what is decided when kernels are made, and keeps every bit, is whether rows are gathered by each
// product or written out once.
import { UserError } from '../../base/errors.ts';
import type { KeysOf } from '../../base/options.ts';
import { aNumber } from '../../base/kinds.ts';
import type { LayerStats } from '../../observe/run-stats.ts';
import { STORED_FROM } from '../../nn/moe/routing.ts';
import { checkPolicy, layersOf, timeToLook } from './modules.ts';
import type { Rule } from '../rule.ts';

export interface SpecialiseOptions {
  /** How far beyond the border rows must lie for a change, as a factor; default 1.25. */
  readonly hysteresis?: number;
  readonly cooldown?: number;
}

/** Rows of the expert that a row is usually computed with: where loads differ, most rows are those of the busy ones. */
export function usualRows({ loadEma }: LayerStats): number {
  const all = loadEma.reduce((a, b) => a + b, 0);
  return all > 0 ? loadEma.reduce((a, b) => a + b * b, 0) / all : 0;
}

/**
 * What a layer should be made for, a power of 2; `now` unless another makes other kernels and rows lie clearly beyond
 * the border.
 */
export function expertRowsFor(rows: number, now: number, hysteresis = 1.25): number {
  const stores = now >= STORED_FROM,
    should = stores ? rows >= STORED_FROM / hysteresis : rows >= STORED_FROM * hysteresis;
  return stores === should ? now : 2 ** Math.floor(Math.log2(Math.max(1, rows)));
}

const KEYS: KeysOf<SpecialiseOptions> = { hysteresis: aNumber, cooldown: aNumber };

/** Sets `expertRows` to the rows that experts really get, where other kernels are faster for that many. Results stay
 * identical. */
export function specialise(options: SpecialiseOptions = {}): Rule<object> {
  checkPolicy('specialise', options, KEYS);
  const { hysteresis = 1.25, cooldown = 200 } = options;
  if (!(hysteresis >= 1)) throw new UserError(`specialise: hysteresis must be at least 1, got ${hysteresis}`);
  return {
    name: 'specialise',
    cooldown,
    only: 'N',
    trigger: timeToLook,
    alter(model, run) {
      for (const [moe, layer] of layersOf(model, run)) {
        if (moe.dispatch === 'ragged' || moe.dispatch === 'padded')
          moe.expertRows = expertRowsFor(usualRows(layer), moe.expertRows, hysteresis);
      }
    },
    reason: (run) => `experts get about ${run.layers.map((l) => Math.round(usualRows(l))).join(', ')} rows`,
  };
}
