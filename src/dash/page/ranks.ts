// What each rank does in a step: its own work, its waits for other ranks, and what it sends. In: the means of the last
// steps; out: a table with a bar for each rank.
import { el, setText, table } from './dom.ts';
import { bytes, milliseconds } from './format.ts';
import type { RankMeans, Run } from './run.ts';

export class RanksView {
  readonly #section: HTMLElement;
  readonly #hint: HTMLElement;
  readonly #box: HTMLElement;
  #shown = '';

  constructor(section: HTMLElement, hint: HTMLElement, box: HTMLElement) {
    this.#section = section;
    this.#hint = hint;
    this.#box = box;
  }

  draw(run: Run): void {
    const means = run.rankMeans();
    this.#section.hidden = means === null;
    const text = JSON.stringify(means);
    if (!means || text === this.#shown) return;
    this.#shown = text;
    const slowest = slowestOf(means),
      longest = Math.max(...means.ms);
    setText(this.#hint, describe(means, slowest));
    this.#box.replaceChildren(
      table(
        `Means over the last ${means.steps} steps`,
        ['rank', 'own work', 'waits for others', 'sends a step', ''],
        means.ms.map((ms, rank) => {
          const own = Math.max(0, ms - means.waited[rank]);
          return [
            `rank ${rank}${rank === slowest ? ' (slowest)' : ''}`,
            milliseconds(own),
            milliseconds(means.waited[rank]),
            bytes(means.sent[rank]),
            bar(own / longest, means.waited[rank] / longest),
          ];
        }),
      ),
    );
  }
}

/** The rank that the others wait for: it has the most work of its own. */
export function slowestOf({ ms, waited }: RankMeans): number {
  const own = ms.map((all, rank) => all - waited[rank]);
  return own.indexOf(Math.max(...own));
}

function describe({ ms, waited }: RankMeans, slowest: number): string {
  const own = ms.map((all, rank) => Math.max(0, all - waited[rank])),
    mean = own.reduce((a, b) => a + b, 0) / own.length;
  return (
    `A step takes as long as the slowest rank: rank ${slowest} works ${milliseconds(own[slowest])}, all ranks ` +
    `${milliseconds(mean)} on average. Dark is work of its own, light is waiting for others.`
  );
}

function bar(own: number, waits: number): HTMLElement {
  const part = (name: string, share: number): HTMLElement => {
    const made = el('span', { class: name });
    // As a property: the page's policy forbids style attributes.
    made.style.width = `${(100 * Math.min(1, share)).toFixed(1)}%`;
    return made;
  };
  return el('span', { class: 'rank-bar', 'aria-hidden': 'true' }, part('own', own), part('waits', waits));
}
