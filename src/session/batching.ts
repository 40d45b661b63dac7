// How a session goes through a batch: whole, or in parts whose gradients are averaged by what counts in each
// (means.ts). Its knob lies beside those of the model's modules, at a path that no module has. A change of it changes
// results: sums of gradients are rounded in another order; capacities, auxiliary losses and statistics of batches are
// those of a part.
import { UserError } from '../base/errors.ts';
import type { KnobRules } from '../trace/knobs.ts';
import { noticeWrites } from '../trace/user-values.ts';

export class Batching {
  static readonly knobs: KnobRules = { split: () => false };
  static {
    noticeWrites(Batching);
  }
  readonly #accumulate: number;
  readonly #eager: boolean;
  #split = 1;

  constructor({
    accumulate,
    eager,
    split,
  }: {
    readonly accumulate: number;
    readonly eager: boolean;
    readonly split: number;
  }) {
    this.#accumulate = accumulate;
    this.#eager = eager;
    this.split = split;
  }

  /** An eager optimiser consumes each gradient as it comes. */
  get eager(): boolean {
    return this.#eager;
  }

  /** Parts of what would be one micro-batch. */
  get split(): number {
    return this.#split;
  }
  set split(split: number) {
    if (!Number.isInteger(split) || split < 1)
      throw new UserError(`split must be a whole number of at least 1, got ${split}`);
    if (split > 1 && this.#eager)
      throw new UserError(
        'a batch is not split where the optimiser is eager: gradients of parts are added up',
        'leave out eager',
      );
    this.#split = split;
  }

  /** Parts of a batch of `size` samples in all: of each micro-batch `split`, or fewer where they would not be equal. */
  parts(size: number, split = this.#split): number {
    while (split > 1 && size % (this.#accumulate * split) !== 0) split--;
    return this.#accumulate * split;
  }
}
