// The small classifier and the language model of the comparison, written as a user of the library would write them.
// Data is random.
import { Stream } from '../../src/base/random.ts';
import { hostTensor, type Batch } from '../../src/base/tensor.ts';
import { add } from '../../src/graph/ops/elementwise/add.ts';
import { div } from '../../src/graph/ops/elementwise/div.ts';
import { expand } from '../../src/graph/ops/shape/expand.ts';
import { groupedMatmul } from '../../src/graph/ops/matmul/groupedMatmul.ts';
import { relu } from '../../src/graph/ops/elementwise/relu.ts';
import { segmentExpand } from '../../src/graph/ops/moe/segmentExpand.ts';
import { softmax } from '../../src/graph/ops/reduce/softmax.ts';
import { sum } from '../../src/graph/ops/reduce/sum.ts';
import { topK } from '../../src/graph/ops/reduce/topK.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { crossEntropy } from '../../src/nn/loss.ts';
import { MLP } from '../../src/nn/mlp.ts';
import { MoE } from '../../src/nn/moe/moe.ts';
import { fromRows, toRows } from '../../src/nn/moe/operators.ts';
import type { Choice, Router } from '../../src/nn/moe/router.ts';
import { route } from '../../src/nn/moe/routing.ts';
import { TransformerLM } from '../../src/nn/transformer.ts';
import { adamW } from '../../src/optim/adam.ts';
import { sgd } from '../../src/optim/sgd.ts';
import { compile } from '../../src/session/node.ts';
import type { DeviceName } from '../../src/session/platform.ts';
import type { Session } from '../../src/session/session.ts';
import type { Model } from '../../src/session/step.ts';
import { Parameter } from '../../src/trace/parameter.ts';
import { call, use } from '../../src/trace/trace.ts';
import type { LanguageSizes, Work } from './protocol.ts';

const INPUTS = 784,
  HIDDEN = 64,
  CLASSES = 10,
  EXPERTS = 8,
  K = 2,
  LANGUAGE: LanguageSizes = { dModel: 128, layers: 4, heads: 4, context: 64, experts: EXPERTS, hidden: 256 };

/** A router: top-k of the softmax of a small network. */
class Gate implements Router {
  readonly experts = EXPERTS;
  readonly net = new MLP([INPUTS, HIDDEN, EXPERTS]);
  choose(x: Tensor, { k }: { readonly k: number }): Choice {
    const logits = call(this.net, x),
      probs = softmax(logits),
      { values, indices } = topK(probs, k);
    return { indices, weights: div(values, expand(sum(values, [1]), values, [1])), scores: values, probs, logits };
  }
}

/** A mixture of eight networks 784 -> 64 -> 10: [batch, 784] -> logits [batch, 10]. */
const mixture = (): Model =>
  new MoE({
    dModel: INPUTS,
    topK: K,
    router: new Gate(),
    experts: Array.from({ length: EXPERTS }, () => new MLP([INPUTS, HIDDEN, CLASSES])),
  });

/** The same with the experts' weights in one bank. */
class Bank {
  readonly gate = new Gate();
  readonly w1 = new Parameter([EXPERTS, INPUTS, HIDDEN], { kind: 'normal', std: Math.sqrt(2 / INPUTS) });
  readonly b1 = new Parameter([EXPERTS, HIDDEN], { kind: 'constant', value: 0 });
  readonly w2 = new Parameter([EXPERTS, HIDDEN, CLASSES], { kind: 'normal', std: Math.sqrt(2 / HIDDEN) });
  readonly b2 = new Parameter([EXPERTS, CLASSES], { kind: 'constant', value: 0 });

  forward(x: Tensor): Tensor {
    const { indices, weights } = this.gate.choose(x, { k: K }),
      routing = route(indices, { experts: EXPERTS }),
      { expert } = routing.rows;
    const linear = (h: Tensor, w: Parameter, b: Parameter): Tensor => {
      const y = groupedMatmul(h, use(x, w));
      return add(y, segmentExpand(use(x, b), expert, y));
    };
    return fromRows(linear(relu(linear(toRows(x, routing), this.w1, this.b1)), this.w2, this.b2), routing, weights);
  }
}

export interface ModelOptions {
  readonly device: DeviceName;
  /** Absent on a GPU. */
  readonly threads?: number;
  readonly eager: boolean;
  readonly bank: boolean;
  readonly say: (line: string) => void;
}

export async function openModel(
  { kind, batch: size = 1, lm = LANGUAGE }: Work,
  { eager, bank, ...on }: ModelOptions,
): Promise<{ session: Session; batch: Batch }> {
  const whole = (name: string, n: number, below: number): Int32Array => {
    const s = new Stream(0, name);
    return Int32Array.from({ length: n }, (_, i) => Math.floor(s.uniform(0, i) * below));
  };
  if (kind === 'lm') {
    const { experts, hidden, ...sizes } = lm,
      model = new TransformerLM({ vocab: 256, ...sizes, moe: { experts, topK: K, hidden } }),
      session = await compile(model, { loss: crossEntropy, optimizer: adamW({ lr: 3e-3, eager }), ...on }),
      shape = [size, lm.context],
      n = size * lm.context;
    return {
      session,
      batch: { x: hostTensor('int32', shape, whole('x', n, 256)), y: hostTensor('int32', shape, whole('y', n, 256)) },
    };
  }
  const session = await compile(bank ? new Bank() : mixture(), {
    loss: crossEntropy,
    optimizer: sgd({ lr: 1e-3, eager }),
    ...on,
  });
  const x = new Stream(0, 'x').normals(0, 1, new Float32Array(size * INPUTS));
  return {
    session,
    batch: { x: hostTensor('float32', [size, INPUTS], x), y: hostTensor('int32', [size], whole('y', size, CLASSES)) },
  };
}
