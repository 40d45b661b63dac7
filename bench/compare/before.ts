// `npm run compare -- --before DIR`: our own contestants of this checkout beside those of another one, in turns. A
// change that must not cost speed is judged by the ratios of such pairs, and a change that must not move a bit by the
// losses. In: a comparison and the other checkout's folder; out: comparisons of two contestants each.
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Entry } from './table.ts';
import type { Comparison, Contestant } from './works.ts';

/** The file that runs our contestants, in any checkout. */
export const OURS = join('bench', 'compare', 'ours.ts');

/** Why a folder cannot be compared with; null where it can. */
export function unfitCheckout(folder: string): string | null {
  if (!existsSync(join(folder, OURS))) return `${folder} is no checkout of this project: it has no ${OURS}`;
  if (!existsSync(join(folder, 'node_modules')))
    return `${folder} has no node_modules: run \`node tools/setup.mjs\` there`;
  return null;
}

/** One comparison for each of our contestants: that of this checkout, then the same of the other one. */
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

/** Whether both came to the same loss after as many steps on the same data: a sentence for the table. */
export function sameLoss([now, before]: readonly Entry[]): string {
  const [a, b] = [now.loss ?? NaN, before.loss ?? NaN];
  if (!Number.isFinite(a) || !Number.isFinite(b)) return 'The losses of the last step were not compared.';
  return Object.is(a, b)
    ? `The loss of the last step is the same: ${a}.`
    : `**The loss of the last step differs**: ${a} now, ${b} before.`;
}
