// Modules applied one after the other, and the reshape from images to rows.
import type { Tensor } from '../graph/tensor.ts';
import { flatten } from '../graph/ops/shape/reshape.ts';
import { call } from '../trace/trace.ts';

/** A module or function from one tensor to one tensor. */
export interface Layer {
  forward(x: Tensor): Tensor;
}

/** Applies layers in order, each to the output of the one before. A layer may be a function, such as an activation. */
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
