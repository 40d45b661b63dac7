// Pooling of images [N, H, W, C] as layers without parameters.
import { fixedCopy } from '../base/fixed.ts';
import { checkOptions } from '../base/options.ts';
import type { Tensor } from '../graph/tensor.ts';
import { avgPool2d, checkAvgPool, type AvgPoolOptions } from '../graph/ops/image/avgPool2d.ts';
import { maxPool2d } from '../graph/ops/image/maxPool2d.ts';
import { POOL_KEYS, type PoolOptions } from '../graph/ops/image/pooling.ts';
import { mean } from '../graph/ops/reduce/sum.ts';
import type { Pair } from '../graph/ops/image/windows.ts';

/** The largest element of each window: [N, H, W, C] -> [N, H', W', C]. */
export class MaxPool2d {
  readonly #window: Pair;
  readonly #options: PoolOptions;
  constructor(window: Pair, options: PoolOptions = {}) {
    checkOptions('MaxPool2d', options, POOL_KEYS);
    this.#window = fixedCopy(window);
    this.#options = fixedCopy(options);
  }
  forward(x: Tensor): Tensor {
    return maxPool2d(x, this.#window, this.#options);
  }
}

/** The mean of each window: [N, H, W, C] -> [N, H', W', C]. */
export class AvgPool2d {
  readonly #window: Pair;
  readonly #options: AvgPoolOptions;
  constructor(window: Pair, options: AvgPoolOptions = {}) {
    checkAvgPool('AvgPool2d', options);
    this.#window = fixedCopy(window);
    this.#options = fixedCopy(options);
  }
  forward(x: Tensor): Tensor {
    return avgPool2d(x, this.#window, this.#options);
  }
}

/** The mean of each image: [N, H, W, C] -> [N, C]. */
export class GlobalAvgPool2d {
  forward(x: Tensor): Tensor {
    return mean(x, [1, 2]);
  }
}
