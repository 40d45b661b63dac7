// Dropout (Srivastava et al. 2014), scaled while training, nothing otherwise.
import type { Tensor } from '../graph/tensor.ts';
import { dropout } from '../graph/ops/create/dropout.ts';
import { UserError } from '../base/errors.ts';
import { shown } from '../base/options.ts';
import { traceOf } from '../trace/trace.ts';

/**
 * Each element becomes 0 with probability `rate`, else x / (1 - rate). The mask depends only on the seed, the step,
 * this module's path, how often the module was used before in the step, and the element's index in the whole batch; so
 * it does not depend on `accumulate` or `split`.
 */
export class Dropout {
  #rate = 0;
  constructor(rate: number) {
    this.rate = rate;
  }

  /** At least 0 and below 1. It may be changed between steps. */
  get rate(): number {
    return this.#rate;
  }
  set rate(rate: number) {
    if (typeof rate !== 'number' || !(rate >= 0 && rate < 1))
      throw new UserError(`dropout rate must be at least 0 and below 1, got ${shown(rate)}`);
    this.#rate = rate;
  }

  forward(x: Tensor): Tensor {
    const trace = traceOf(x);
    if (!trace.training || this.rate === 0) return x;
    const { seed, step, key, first } = trace.random(this, '', x);
    return dropout(x, seed, step, { rate: this.rate, key }, first);
  }
}
