// The schedule of capacities that the paper's author wrote by hand, epoch by epoch, for 8 experts and top-2, as a rule
// of session.recompile.
//
// Published are two rows of it, of epochs 60 and 470, and that it began with a factor of 2 for every expert. Its length
// is not: it is taken to be 500 epochs, the next round number, and scaled to the run's steps. Which of the author's
// experts were busy is not known either. Here his largest factor goes to the expert that is busiest when the change is
// decided, his second to the second, and so on, since he wrote them looking at his loads: given to experts by number
// they would fit by chance alone.
import type { nn } from 'dynamoe';
import type { Rule, RunStats } from 'dynamoe/recompile';

export const START = 2;
export const EPOCHS = 500;
export const PUBLISHED: readonly { readonly epoch: number; readonly factors: readonly number[] }[] = [
  { epoch: 60, factors: [1.34, 1.3, 0.82, 1.0, 0.87, 0.92, 0.95, 0.8] },
  { epoch: 470, factors: [2.2, 1.9, 0.12, 1.0, 0.58, 1.18, 0.83, 0.19] },
];

/** Steps between the decision to change results and the first step that has the change. */
export const NOTICE = 32;
const SEEN_LATE = 2; // what step n shows is seen before step n + 2

/** The first steps (from 1) that are to have the factors of each row, in a run of so many. */
export const firstSteps = (steps: number): number[] =>
  PUBLISHED.map(({ epoch }) => Math.round((steps * epoch) / EPOCHS) + 1);

/** The largest factor for the largest load. Loads that are equal: in order. */
export function byRank(factors: readonly number[], loads: readonly number[]): number[] {
  const sorted = [...factors].sort((a, b) => b - a),
    order = [...loads.keys()].sort((a, b) => loads[b] - loads[a] || a - b),
    out: number[] = [];
  order.forEach((expert, rank) => {
    out[expert] = sorted[rank];
  });
  return out;
}

/**
 * Sets the factors so that they hold from those steps on; where that is sooner than a change can be (in runs of some
 * hundred steps), as soon as it can be.
 */
export function handWritten(steps: number): Rule<object> {
  const starts = firstSteps(steps);
  let done = 0;
  const next = ({ step }: RunStats): boolean =>
    done < starts.length && step > 0 && step + SEEN_LATE + NOTICE >= starts[done];
  return {
    name: 'schedule',
    cooldown: 0,
    trigger: next,
    alter(model, run) {
      const { factors } = PUBLISHED[done++];
      for (const { path, loadEma } of run.layers) moduleAt(model, path).capacity = byRank(factors, loadEma);
    },
    reason: () => `epoch ${PUBLISHED[done - 1].epoch} of ${EPOCHS}`,
  };
}

/** blocks.0.moe: the module there. */
export const moduleAt = (model: object, path: string): nn.MoE =>
  path.split('.').reduce<unknown>((at, key) => (at as Record<string, unknown>)[key], model) as nn.MoE;
