// `npm run compare -- --before DIR`: DynaMoE's contestants of this checkout compared with those of another checkout, in
// turns. The ratios of such pairs show whether a change costs speed, and the losses show whether it changes bits. In: a
// comparison and the other checkout's folder. Out: comparisons of two contestants each.
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Entry } from './table.ts';
import type { Comparison, Contestant } from './works.ts';

/** The file that runs DynaMoE's contestants, in any checkout. */
export const OURS = join('bench', 'compare', 'ours.ts');

/** The reason why a folder cannot be used for the comparison; null if it can. */
export function unfitCheckout(folder: string): string | null {
  if (!existsSync(join(folder, OURS))) return `${folder} is no checkout of this project: it has no ${OURS}`;
  if (!existsSync(join(folder, 'node_modules')))
    return `${folder} has no node_modules: run \`node tools/setup.mjs\` there`;
  return null;
}

/** One comparison for each of DynaMoE's contestants: in this checkout, then in the other one. */
export function beforeAndAfter(comparison: Comparison, folder: string): Comparison[] {
  return comparison.contestants
    .filter((c) => c.runner === 'ours')
    .map((after): Comparison => {
      const before: Contestant = { ...after, name: `${after.name}, before`, folder: resolve(folder) };
      return {
        ...comparison,
        title: `${comparison.title}: ${after.name}, now and before`,
        contestants: [after, before],
      };
    });
}

/** A sentence for the table: whether both have the same loss after the same number of steps on the same data. */
export function sameLoss([now, before]: readonly Entry[]): string {
  const [a, b] = [now.loss ?? NaN, before.loss ?? NaN];
  if (!Number.isFinite(a) || !Number.isFinite(b)) return 'The losses of the last step were not compared.';
  return Object.is(a, b)
    ? `The loss of the last step is the same: ${a}.`
    : `**The loss of the last step differs**: ${a} now, ${b} before.`;
}
