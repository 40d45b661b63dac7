// The policy expertLifecycle: removes experts that almost no token chooses, copies an expert that too many tokens
// choose into a free slot, and merges copies that are no longer needed. It looks only at the loads of the last 64
// steps, as shares of the even load (choices of a step divided by the number of experts). A condition must hold at all
// 64 steps.
import type { MoE } from '../../nn/moe/moe.ts';
import { activeOf, choicesOf, readSlots } from '../../nn/moe/slots.ts';
import type { LayerStats } from '../../observe/run-stats.ts';
import { canCopy, freeSlots, mergeExperts, pruneExpert, splitExpert } from './lifecycle.ts';
import { checkPolicy, layersOf, timeToLook } from './modules.ts';
import { UserError } from '../../base/errors.ts';
import type { KeysOf } from '../../base/options.ts';
import { aNumber } from '../../base/kinds.ts';
import type { Rule } from '../rule.ts';

/** Thresholds are shares of the even load; 0 switches that part of the policy off. */
export interface ExpertLifecycleOptions {
  /** An expert whose load stays below it is removed; default 0.1. */
  readonly prune?: number;
  /**
   * An expert and its copy are merged if the sum of their loads stays below it; two other experts only if a split needs
   * a free slot. Default 0.5.
   */
  readonly merge?: number;
  /**
   * An expert whose load stays above it gets a copy, if a slot is free or a merge can free one; default 2.5. The expert
   * with the highest load comes first.
   */
  readonly split?: number;
  /**
   * An expert whose load stays below it is not trained until its load stays above twice that value; default 0: none.
   * With this option the policy alone sets the knob `frozen`.
   */
  readonly freeze?: number;
  /** How many experts must remain to choose from; default `topK`. */
  readonly keep?: number;
  /**
   * Steps between two changes, and before the first; default 256. At least 100, so that all loads that it looks at come
   * from after the last change.
   */
  readonly cooldown?: number;
}

const KEYS: KeysOf<ExpertLifecycleOptions> = {
  prune: aNumber,
  merge: aNumber,
  split: aNumber,
  freeze: aNumber,
  keep: aNumber,
  cooldown: aNumber,
};
const LEAST_COOLDOWN = 100; // notice of 32, a window of 64, and the delay of statistics

/**
 * Prunes, merges, splits and freezes experts by their loads, in layers whose router can do so (TopKRouter,
 * SigmoidRouter, both without groups). Results change.
 */
export function expertLifecycle(options: ExpertLifecycleOptions = {}): Rule<object> {
  checkPolicy('expertLifecycle', options, KEYS);
  const { prune = 0.1, merge = 0.5, split = 2.5, freeze = 0, keep = 0, cooldown = 256 } = options;
  if (!(cooldown >= LEAST_COOLDOWN))
    throw new UserError(
      `expertLifecycle: cooldown must be at least ${LEAST_COOLDOWN} steps, got ${cooldown}`,
      'otherwise the policy would look at loads from before the last change',
    );
  if (split > 0 && split <= Math.max(prune, merge))
    throw new UserError(
      `expertLifecycle: split (${split}) must lie above prune and merge`,
      'otherwise a copy could be merged or pruned right after the split',
    );
  let changes: string[] = [];
  return {
    name: 'expertLifecycle',
    cooldown,
    trigger: (run) => run.step >= cooldown && timeToLook(run),
    alter(model, run) {
      changes = [];
      for (const [moe, layer] of layersOf(model, run)) {
        const words = [
          ...(moe.router.expertAxes ? addAndRemove(moe, layer, { prune, merge, split, keep }) : []),
          ...(freeze > 0 ? frozen(moe, layer, freeze) : []),
        ];
        if (words.length > 0) changes.push(`${layer.path}: ${words.join(', ')}`);
      }
    },
    reason: () => `${changes.join('; ')} (loads in shares of the even load, over 64 steps)`,
  };
}

type Limits = Required<Pick<ExpertLifecycleOptions, 'prune' | 'merge' | 'split' | 'keep'>>;
const short = (x: number): string => x.toFixed(2);

/** Sets `slots` of a draft's layer; gives a description of each change. */
function addAndRemove(moe: MoE, layer: LayerStats, limits: Limits): string[] {
  const words: string[] = [],
    most = layer.factor(1),
    least = layer.factor(0),
    load = layer.loadEma,
    floor = Math.max(moe.topK, limits.keep);
  const families = () => readSlots(moe.slots).families,
    spare = (): boolean => choicesOf(families()) > floor;
  /** Slots that hold an expert, the least loaded first. */
  const experts = (): number[] =>
    activeOf(families())
      .flatMap((held, e) => (held ? [e] : []))
      .sort((a, b) => load[a] - load[b] || a - b);
  const alone = (e: number): boolean => families().filter((f) => f === families()[e]).length === 1;
  const join = (pair: readonly [number, number], why: string): void => {
    const [a, b] = load[pair[0]] >= load[pair[1]] ? pair : [pair[1], pair[0]],
      both = load[a] + load[b];
    mergeExperts(moe, a, b, both > 0 ? Number((load[b] / both).toFixed(3)) : 0.5);
    words.push(`merge ${b} into ${a}${why} (together at most ${short(most[a] + most[b])})`);
  };
  /** Of the pairs whose summed load stays below `merge`, the one with the least load. */
  const small = (fits: (a: number, b: number) => boolean): readonly [number, number] | undefined => {
    const all = experts(),
      pairs = all.flatMap((a, i) => all.slice(i + 1).map((b) => [a, b] as const));
    return pairs
      .filter(([a, b]) => most[a] + most[b] < limits.merge && fits(a, b) && canCopy(moe, a, b))
      .sort((p, q) => load[p[0]] + load[p[1]] - load[q[0]] - load[q[1]])[0];
  };

  for (const e of experts()) {
    if (most[e] >= limits.prune || (alone(e) && !spare())) continue;
    pruneExpert(moe, e);
    words.push(`prune ${e} (at most ${short(most[e])})`);
  }
  const kin = small((a, b) => families()[a] === families()[b]);
  if (kin) join(kin, '');
  const hot =
    limits.split > 0
      ? experts()
          .reverse()
          .find((e) => least[e] > limits.split)
      : undefined;
  if (hot === undefined) return words;
  if (freeSlots(moe).length === 0) {
    const pair = small((a, b) => (alone(a) && alone(b) ? spare() : true));
    if (pair) join(pair, ' to make room');
  }
  const into = freeSlots(moe).find((slot) => canCopy(moe, hot, slot));
  if (into === undefined) return words;
  splitExpert(moe, hot, into);
  words.push(`split ${hot} into ${into} (at least ${short(least[hot])})`);
  return words;
}

function frozen(moe: MoE, layer: LayerStats, below: number): string[] {
  const most = layer.factor(1),
    least = layer.factor(0),
    held = activeOf(readSlots(moe.slots).families),
    was = moe.frozen;
  moe.frozen = was.map((f, e) => held[e] && (f ? least[e] <= 2 * below : most[e] < below));
  const changed = (to: boolean): string =>
    moe.frozen.flatMap((f, e) => (f === to && was[e] !== to && held[e] ? [e] : [])).join(' ');
  return [
    [changed(true), 'freeze'],
    [changed(false), 'thaw'],
  ].flatMap(([who, what]) => (who === '' ? [] : [`${what} ${who}`]));
}
