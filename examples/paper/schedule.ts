// The schedule of capacities that the paper's author wrote by hand, epoch by epoch, for 8 experts and top-2, as a rule
// of session.recompile.
//
// The paper gives two rows of it, for epochs 60 and 470, and its start with a factor of 2 for every expert. It does not
// give the number of epochs: we assume 500, the next round number, and scale it to the run's steps. It also does not
// say which of the author's experts had high loads. Here his largest factor goes to the expert with the highest load
// when the change is decided, his second largest to the second, and so on, because he chose them from his loads. If the
// factors were given to experts by number, they would fit only by chance.
import type { nn } from 'dynamoe';
import type { Rule, RunStats } from 'dynamoe/recompile';

export const START = 2;
export const EPOCHS = 500;
export const PUBLISHED: readonly { readonly epoch: number; readonly factors: readonly number[] }[] = [
  { epoch: 60, factors: [1.34, 1.3, 0.82, 1.0, 0.87, 0.92, 0.95, 0.8] },
  { epoch: 470, factors: [2.2, 1.9, 0.12, 1.0, 0.58, 1.18, 0.83, 0.19] },
];

/** Steps between the decision to change results and the first step with the change. */
export const NOTICE = 32;
const SEEN_LATE = 2; // what step n shows is seen before step n + 2

/** For each row of the schedule, the first step (counted from 1) with its factors, in a run of this length. */
export const firstSteps = (steps: number): number[] =>
  PUBLISHED.map(({ epoch }) => Math.round((steps * epoch) / EPOCHS) + 1);

/** Gives the largest factor to the largest load. Experts with equal loads keep their order. */
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
 * Sets the factors so that they take effect at those steps. In runs of a few hundred steps, a change cannot take effect
 * that early; it is then made as early as possible.
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

/** The module with this path, such as blocks.0.moe. */
export const moduleAt = (model: object, path: string): nn.MoE =>
  path.split('.').reduce<unknown>((at, key) => (at as Record<string, unknown>)[key], model) as nn.MoE;
