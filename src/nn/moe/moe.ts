// The mixture-of-experts layer: a router sends each token to its top-k experts, whose outputs are summed with the gate's weights.
import { boundOf } from '../../base/shape.ts';
import { UserError } from '../../base/errors.ts';
import type { Tensor } from '../../graph/tensor.ts';
import { cast } from '../../graph/ops/cast.ts';
import { combine } from '../../graph/ops/combine.ts';
import { dispatch } from '../../graph/ops/dispatch.ts';
import { div } from '../../graph/ops/div.ts';
import { expand } from '../../graph/ops/expand.ts';
import { logSumExp } from '../../graph/ops/logSumExp.ts';
import { mul } from '../../graph/ops/mul.ts';
import { permute } from '../../graph/ops/permute.ts';
import { reshape } from '../../graph/ops/reshape.ts';
import { slice } from '../../graph/ops/slice.ts';
import { softmax } from '../../graph/ops/softmax.ts';
import { sub } from '../../graph/ops/sub.ts';
import { mean, sum } from '../../graph/ops/sum.ts';
import { topK } from '../../graph/ops/topK.ts';
import { call, traceOf } from '../../trace/trace.ts';
import { Linear } from '../linear.ts';
import { ExpertBank, type Activation } from './experts.ts';

export interface MoEOptions {
  readonly dModel: number;
  readonly experts: number;
  readonly topK: number;
  /** Width of an expert's hidden layer. */
  readonly hidden: number;
  readonly activation?: Activation;
  readonly bias?: boolean;
  /** Only dropless so far: every token reaches its experts. */
  readonly capacity?: 'dropless';
  /** Divides the k gate weights by their sum; default true for k > 1. */
  readonly normalise?: boolean;
  /** Coefficient of the Switch auxiliary loss; default 0.01. */
  readonly balance?: number;
  /** Coefficient of the router's z-loss; default 0.001. */
  readonly zLoss?: number;
  readonly outStd?: number;
}

/** [..., dModel] -> [..., dModel]. Reports the statistic `load`: int32 [experts], tokens sent to each expert. */
export class MoE {
  readonly router: Linear; // [dModel, experts]
  readonly experts: ExpertBank;
  readonly #options: MoEOptions;

  constructor(options: MoEOptions) {
    const { dModel, experts, capacity = 'dropless' } = options, k = options.topK;
    if (!Number.isInteger(k) || k < 1 || k > experts) throw new UserError(`MoE: topK must be from 1 to the number of experts (${experts}), got ${k}`);
    if (capacity !== 'dropless') throw new UserError(`MoE: capacity ${String(capacity)} is not supported yet`, "use 'dropless'");
    this.router = new Linear(dModel, experts, { bias: false });
    this.experts = new ExpertBank(options);
    this.#options = options;
  }

  forward(x: Tensor): Tensor {
    const { dModel, experts, topK: k, normalise = k > 1 } = this.#options;
    const shape = x.shape.map(boundOf);
    const tokens = reshape(x, [shape.slice(0, -1).reduce((n, d) => n * d, 1), dModel]); // [tokens, dModel]
    const logits = call(this.router, tokens); // [tokens, experts], float32 always
    const probs = softmax(logits);
    const { values, indices } = topK(probs, k); // [tokens, k]
    const weights = normalise ? div(values, expand(sum(values, [1]), values, [1])) : values;
    const { offsets, order, inverse, expert } = permute(indices, experts);
    const rows = dispatch(tokens, order, offsets, inverse, { k }); // [tokens * k / experts, dModel]
    const outputs = call(this.experts, rows, expert);
    this.#report(tokens, logits, probs, offsets);
    return reshape(combine(outputs, inverse, order, weights), shape);
  }

  #report(x: Tensor, logits: Tensor, probs: Tensor, offsets: Tensor): void {
    const { experts, topK: k, balance = 0.01, zLoss = 0.001 } = this.#options, trace = traceOf(x);
    if (!trace.training) return;
    const load = sub(slice(offsets, 0, 1, experts + 1), slice(offsets, 0, 0, experts)); // int32 [experts]
    trace.addStat(this, 'load', load);
    const count = boundOf(x.shape[0]);
    if (balance > 0) {
      // Switch Transformer (Fedus et al. 2022), equation 4: experts * sum_e (share of tokens)_e * (mean probability)_e.
      const share = mul(cast(load, 'float32'), 1 / (count * k));
      trace.addLoss(this, 'balance', mul(sum(mul(share, mean(probs, [0]))), experts), balance);
    }
    if (zLoss > 0) {
      // ST-MoE (Zoph et al. 2022), equation 5: mean of (log sum exp of the logits)^2.
      const z = logSumExp(logits);
      trace.addLoss(this, 'z', mean(mul(z, z)), zLoss);
    }
  }
}
