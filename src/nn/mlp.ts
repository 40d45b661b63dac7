// A multi-layer perceptron: linear maps with an activation between them.
import type { Tensor } from '../graph/tensor.ts';
import { relu } from '../graph/ops/relu.ts';
import { call } from '../trace/trace.ts';
import { Linear } from './linear.ts';

export interface MlpOptions { readonly activation?: (x: Tensor) => Tensor; readonly bias?: boolean }

/** [..., sizes[0]] -> [..., sizes[last]], ReLU between by default. */
export class MLP {
  readonly layers: Linear[];
  readonly #activation: (x: Tensor) => Tensor;
  constructor(sizes: readonly number[], { activation = relu, bias = true }: MlpOptions = {}) {
    this.layers = sizes.slice(1).map((n, i) => new Linear(sizes[i], n, { bias, std: Math.sqrt(2 / sizes[i]) }));
    this.#activation = activation;
  }

  forward(x: Tensor): Tensor {
    return this.layers.reduce((h, layer, i) => call(layer, i === 0 ? h : this.#activation(h)), x);
  }
}
