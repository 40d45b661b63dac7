// The programs of steps for the last few shapes of batches: a new plan is compiled for all of them.
import { keepRecent } from '../base/recent.ts';
import type { Programs, Traced } from './programs.ts';

const SHAPES = 4;

export class Shapes {
  readonly #programs: Programs;
  /** The newest shape is last. */
  readonly #seen = new Map<string, () => readonly Traced[]>();
  #last = '';

  constructor(programs: Programs) {
    this.#programs = programs;
  }

  /** The programs of a step by shape; the newest shape is last. */
  get seen(): ReadonlyMap<string, () => readonly Traced[]> {
    return this.#seen;
  }
  /** The shape of the last step; '' before the first. */
  get last(): string {
    return this.#last;
  }

  /**
   * Notes the programs of the next step, for a batch of this shape. traced: programs that were not traced under the
   * current settings are traced now, before rules are asked.
   */
  note(shape: string, programs: () => readonly Traced[], traced: boolean): void {
    this.#last = shape;
    keepRecent(this.#seen, shape, () => [...new Map(programs().map((p) => [p.family, p])).values()], SHAPES);
    if (!traced) return;
    for (const { family, graph } of this.#seen.get(shape)?.() ?? []) this.#programs.keyOfTraced(family, graph);
  }
}
