// A table of vectors, one for each token.
import { checkOptions, type KeysOf } from '../base/options.ts';
import { atLeast0 } from '../base/kinds.ts';
import type { Tensor } from '../graph/tensor.ts';
import { gather } from '../graph/ops/shape/gather.ts';
import { Parameter } from '../trace/parameter.ts';
import { use } from '../trace/trace.ts';

export interface EmbeddingOptions {
  /** Standard deviation of the starting values; default 1. */
  readonly std?: number;
}
const KEYS: KeysOf<EmbeddingOptions> = { std: atLeast0 };

/** int32 [...] -> [..., width]: row `token` of the table. */
export class Embedding {
  readonly weight: Parameter; // [count, width]
  constructor(count: number, width: number, options: EmbeddingOptions = {}) {
    checkOptions('Embedding', options, KEYS);
    this.weight = new Parameter([count, width], { kind: 'normal', std: options.std ?? 1 }, { role: 'embedding' });
  }

  forward(tokens: Tensor): Tensor {
    return gather(use(tokens, this.weight), tokens);
  }
}
