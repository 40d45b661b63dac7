// A table of vectors, one for each token.
import type { Tensor } from '../graph/tensor.ts';
import { gather } from '../graph/ops/gather.ts';
import { Parameter } from '../trace/parameter.ts';
import { use } from '../trace/trace.ts';

/** int32 [...] -> [..., width]: row `token` of the table. */
export class Embedding {
  readonly weight: Parameter; // [count, width]
  constructor(count: number, width: number, { std = 1 }: { std?: number } = {}) {
    this.weight = new Parameter([count, width], { kind: 'normal', std }, { role: 'embedding' });
  }

  forward(tokens: Tensor): Tensor { return gather(use(tokens, this.weight), tokens); }
}
