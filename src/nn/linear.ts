// A linear map of the last dimension.
import { checkOptions, type KeysOf } from '../base/options.ts';
import { aFlag, aText, atLeast0 } from '../base/kinds.ts';
import type { Tensor } from '../graph/tensor.ts';
import { add } from '../graph/ops/elementwise/add.ts';
import { matmul } from '../graph/ops/matmul/matmul.ts';
import { Parameter, type Role } from '../trace/parameter.ts';
import { use } from '../trace/trace.ts';

export interface LinearOptions {
  /** Adds a bias; default true. */
  readonly bias?: boolean;
  /** Standard deviation of the starting weights; default 1 / sqrt(inputs). */
  readonly std?: number;
  /** What the weights are; default 'weight'. The map to a model's outputs is a 'head'. */
  readonly role?: Role;
}

const KEYS: KeysOf<LinearOptions> = { bias: aFlag, std: atLeast0, role: aText };

/** y = x W + b: [..., inputs] -> [..., outputs]. */
export class Linear {
  readonly weight: Parameter; // [inputs, outputs]
  readonly bias: Parameter | null; // [outputs]
  constructor(inputs: number, outputs: number, options: LinearOptions = {}) {
    checkOptions('Linear', options, KEYS);
    const { bias = true, std = 1 / Math.sqrt(inputs), role = 'weight' } = options;
    this.weight = new Parameter([inputs, outputs], { kind: 'normal', std }, { role });
    this.bias = bias ? new Parameter([outputs], { kind: 'constant', value: 0 }, { role: 'bias' }) : null;
  }

  forward(x: Tensor): Tensor {
    const y = matmul(x, use(x, this.weight));
    return this.bias ? add(y, use(x, this.bias)) : y;
  }
}
