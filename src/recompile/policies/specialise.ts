// The policy specialise: chooses kernels by how many rows experts get. Tiles and tasks follow the true counts at every
// step anyway. What kernels fix, without changing a bit, is whether each matrix product gathers its rows, or rows are
// written out once for all products.
import { UserError } from '../../base/errors.ts';
import type { KeysOf } from '../../base/options.ts';
import { aNumber } from '../../base/kinds.ts';
import type { LayerStats } from '../../observe/run-stats.ts';
import { ANYTHING } from '../../schedule/target.ts';
import { checkPolicy, layersOf, timeToLook } from './modules.ts';
import type { Rule } from '../rule.ts';

export interface SpecialiseOptions {
  /** The factor by which the number of rows must cross the threshold (256 rows) for a change; default 1.25. */
  readonly hysteresis?: number;
  readonly cooldown?: number;
}

/** Mean load of experts, weighted by load: how many rows the expert of a randomly chosen row has. */
export function usualRows({ loadEma }: LayerStats): number {
  const all = loadEma.reduce((a, b) => a + b, 0);
  return all > 0 ? loadEma.reduce((a, b) => a + b * b, 0) / all : 0;
}

const { storedRows } = ANYTHING;

/**
 * The `expertRows` that a layer should have, a power of 2. It stays `now` unless another value means other kernels and
 * `rows` lies beyond the threshold by the factor `hysteresis`.
 */
export function expertRowsFor(rows: number, now: number, hysteresis = 1.25): number {
  const stores = now >= storedRows,
    should = stores ? rows >= storedRows / hysteresis : rows >= storedRows * hysteresis;
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
