// Whether a session computes a batch whole or in parts, whose gradients are averaged by what the loss counts in each
// (means.ts). `split` is a knob of the session itself, at the path '@session', which no module can have. Changing it
// changes results: gradients are summed in another order, and capacities, auxiliary losses and statistics are computed
// for each part.
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

  /**
   * Whether the optimiser updates each parameter as soon as its gradient is ready, so gradients of parts cannot be
   * added.
   */
  get eager(): boolean {
    return this.#eager;
  }

  /** Number of parts of each micro-batch. */
  get split(): number {
    return this.#split;
  }
  set split(split: number) {
    if (!Number.isInteger(split) || split < 1)
      throw new UserError(`split must be a whole number of at least 1, got ${split}`);
    if (split > 1 && this.#eager)
      throw new UserError(
        'split must be 1 for an eager optimiser, which cannot add the gradients of several parts',
        'leave out eager',
      );
    this.#split = split;
  }

  /**
   * Number of parts of a batch of `size` samples: `split` for each micro-batch, or the largest smaller number that
   * gives equal parts.
   */
  parts(size: number, split = this.#split): number {
    while (split > 1 && size % (this.#accumulate * split) !== 0) split--;
    return this.#accumulate * split;
  }
}
