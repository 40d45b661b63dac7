// A router whose loads are known: expert e (0, 1, ...) gets a bias of -skew ln(e + 1) on its logits, so that loads
// follow a power law.
import type { Tensor } from '../graph/tensor.ts';
import { add } from '../graph/ops/elementwise/add.ts';
import type { RouterOptions } from '../nn/moe/router.ts';
import { TopKRouter } from '../nn/moe/routers.ts';
import { Parameter } from '../trace/parameter.ts';
import { use } from '../trace/trace.ts';

/** float32 [experts] */
export const skewedBias = (experts: number, skew: number): Float32Array =>
  Float32Array.from({ length: experts }, (_, e) => -skew * Math.log(e + 1));

/**
 * A top-k router with fixed weights and a bias on the logits, neither trained: every session has the same load. The
 * bias starts at 0; who makes a session sets this state.
 */
export class SkewedRouter extends TopKRouter {
  readonly bias: Parameter; // [experts]
  constructor(options: RouterOptions) {
    super(options);
    this.bias = new Parameter([options.experts], { kind: 'constant', value: 0 }, { trained: false });
    this.weight.frozen = true;
  }

  protected override logits(x: Tensor): Tensor {
    return add(super.logits(x), use(x, this.bias));
  }
}
