// The policy cacheAssignments: if samples come again, the experts that they chose are remembered by sample id. If the
// remembered choices agree with those of the router, they are used in their place (Kossmann et al. 2022, section 5.2).
// Results change where a remembered choice differs from what the router would choose.
//
// live -> watched, when a sample has come for the second time: results stay the same, and the memory fills. watched ->
// cached, when agreement is at least `on`. cached -> watched, when agreement of the audited samples falls below `off`.
import { UserError } from '../../base/errors.ts';
import type { KeysOf } from '../../base/options.ts';
import { aFlag, aFunction, aNumber } from '../../base/kinds.ts';
import type { MoE } from '../../nn/moe/moe.ts';
import type { LayerStats, RunStats } from '../../observe/run-stats.ts';
import { checkPolicy, layersOf, timeToLook } from './modules.ts';
import type { Rule } from '../rule.ts';

export interface CacheAssignmentsOptions {
  /** Agreement from which on a layer uses remembered choices; default 0.95. */
  readonly on?: number;
  /** Agreement below which a layer uses its router again; default 0.85. */
  readonly off?: number;
  /** What `on` and `off` are compared with; default: the moving average of agreement, `agreementEma`. */
  readonly score?: (layer: LayerStats) => number;
  /** While a layer is cached, its router chooses again for one sample in this many at each step; default 16. */
  readonly audit?: number;
  /**
   * Most samples that are remembered; default 1048576. If there are more ids, several share a slot, and the sample that
   * came last is remembered.
   */
  readonly samples?: number;
  /**
   * Whether the router is not trained while its layer is cached; default false: it continues to learn, from the weights
   * of the cached choices.
   */
  readonly freeze?: boolean;
  /** Steps between two changes; default 64. */
  readonly cooldown?: number;
  /** Steps after which the policy reports that no sample has come twice; default 8192. */
  readonly patience?: number;
}

const KEYS: KeysOf<CacheAssignmentsOptions> = {
  on: aNumber,
  off: aNumber,
  score: aFunction,
  audit: aNumber,
  samples: aNumber,
  freeze: aFlag,
  cooldown: aNumber,
  patience: aNumber,
};

/**
 * Uses remembered choices of experts in place of the router's where both agree (`routing`). Decides by statistics that
 * are the same in every run. Results change.
 */
export function cacheAssignments(options: CacheAssignmentsOptions = {}): Rule<object> {
  checkPolicy('cacheAssignments', options, KEYS, ['score', 'freeze']);
  if (options.score !== undefined && typeof options.score !== 'function')
    throw new UserError('cacheAssignments: score must be a function of a layer');
  if (options.freeze !== undefined && typeof options.freeze !== 'boolean')
    throw new UserError(`cacheAssignments: freeze must be true or false, got ${JSON.stringify(options.freeze)}`);
  const {
    on = 0.95,
    off = 0.85,
    score = (layer) => layer.agreementEma,
    audit = 16,
    samples = 2 ** 20,
    freeze = false,
    cooldown = 64,
    patience = 8192,
  } = options;
  if (!(off <= on))
    throw new UserError(
      `cacheAssignments: off (${off}) must not be above on (${on})`,
      'the gap between them prevents a layer from changing back and forth',
    );
  for (const [name, n] of Object.entries({ audit, samples }))
    if (!Number.isInteger(n) || n < 1)
      throw new UserError(`cacheAssignments: ${name} must be a whole number of at least 1, got ${n}`);
  let reported = false;
  const next = ({ routing, router }: MoE, layer: LayerStats): MoE['routing'] => {
    if (routing === 'live') return router.remembers ? 'watched' : 'live';
    const agrees = score(layer);
    return routing === 'watched' && agrees >= on
      ? 'cached'
      : routing === 'cached' && agrees < off
        ? 'watched'
        : routing;
  };
  /** Whether a sample has come again. If it becomes clear that none will, throws an error with the reason, once. */
  const samplesRecur = (run: RunStats): boolean => {
    const { steps, without, again } = run.samples,
      why =
        again > 0
          ? null
          : steps === 0 && without > 0
            ? 'batches have no ids'
            : steps >= patience
              ? `none of the first batch's came again in ${steps} steps`
              : null;
    if (why === null || reported) return again > 0;
    reported = true;
    throw new UserError(
      `samples do not recur: ${why}, so nothing is remembered and every layer keeps using its router`,
      'a batch may have `ids`; datasets of this library give them',
    );
  };
  return {
    name: 'cacheAssignments',
    cooldown,
    trigger: (run) => timeToLook(run) && samplesRecur(run),
    alter(model, run) {
      const layers = layersOf(model, run);
      if (!reported && layers.length > 0 && layers.every(([{ router }]) => !router.remembers)) {
        reported = true;
        throw new UserError(
          `no layer's choices can be remembered: a choice of ` +
            `${layers.map(([{ router }, { path }]) => `${path} (${router.constructor.name})`).join(', ')} does not ` +
            `depend on its token alone`,
        );
      }
      for (const [moe, layer] of layers) {
        const from = moe.routing,
          to = next(moe, layer);
        if (to === from) continue;
        if (from === 'live') {
          moe.remember = Math.min(samples, run.samples.largest + 1);
          moe.audit = audit;
        }
        moe.routing = to;
        if (freeze) moe.gateFrozen = to === 'cached';
      }
    },
    reason: (run) =>
      run.layers.every((l) => Number.isNaN(l.agreement))
        ? `samples come again, ${run.samples.largest + 1} ids so far`
        : `remembered choices agree: ` +
          `${run.layers.map((l) => (Number.isNaN(l.agreement) ? 'not known' : score(l).toFixed(3))).join(', ')}`,
  };
}
