// A multi-layer perceptron: linear maps with an activation between them.
import { UserError } from '../base/errors.ts';
import { checkOptions, refuseUnused, type KeysOf } from '../base/options.ts';
import { aFlag, aFunction } from '../base/kinds.ts';
import type { Tensor } from '../graph/tensor.ts';
import { relu } from '../graph/ops/elementwise/relu.ts';
import { call } from '../trace/trace.ts';
import { Linear } from './linear.ts';

export interface MlpOptions {
  readonly activation?: (x: Tensor) => Tensor;
  readonly bias?: boolean;
}
const KEYS: KeysOf<MlpOptions> = { activation: aFunction, bias: aFlag };

/** [..., sizes[0]] -> [..., sizes[last]], ReLU between by default. */
export class MLP {
  readonly layers: Linear[];
  readonly #activation: (x: Tensor) => Tensor;
  constructor(sizes: readonly number[], options: MlpOptions = {}) {
    checkOptions('MLP', options, KEYS);
    if (((sizes as readonly number[] | undefined)?.length ?? 0) < 2)
      throw new UserError(
        `MLP: needs at least two sizes, got ${JSON.stringify(sizes)}`,
        'new nn.MLP([inputs, hidden, outputs])',
      );
    refuseUnused('MLP', options, {
      activation: sizes.length === 2 && 'it stands between linear maps, and there is one',
    });
    const { activation = relu, bias = true } = options;
    this.layers = sizes.slice(1).map((n, i) => new Linear(sizes[i], n, { bias, std: Math.sqrt(2 / sizes[i]) }));
    this.#activation = activation;
  }

  forward(x: Tensor): Tensor {
    return this.layers.reduce((h, layer, i) => call(layer, i === 0 ? h : this.#activation(h)), x);
  }
}
