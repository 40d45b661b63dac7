// Modules one after the other, and the reshape that stands between images and rows.
import type { Tensor } from '../graph/tensor.ts';
import { flatten } from '../graph/ops/shape/reshape.ts';
import { call } from '../trace/trace.ts';

/** Anything that makes one tensor from one. */
export interface Layer {
  forward(x: Tensor): Tensor;
}

/** The last of these modules' outputs, each given the one before's. A function (an activation) may stand among them. */
export class Sequential {
  readonly layers: readonly (Layer | ((x: Tensor) => Tensor))[];
  constructor(...layers: readonly (Layer | ((x: Tensor) => Tensor))[]) {
    this.layers = layers;
  }

  forward(x: Tensor): Tensor {
    return this.layers.reduce((h, layer) => (typeof layer === 'function' ? layer(h) : call(layer, h)), x);
  }
}

/** All dimensions but the first merged into one: [N, ...] -> [N, size]. */
export class Flatten {
  forward(x: Tensor): Tensor {
    return flatten(x, 1);
  }
}
