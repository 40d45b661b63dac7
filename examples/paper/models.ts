// The models that are compared. Each has MoE layers whose dispatch and capacity are set by a row of the table;
// everything else is the same in every row.
import { call, nn, ops, Parameter, use, type Tensor } from 'dynamoe';

/** The settings of a row for every MoE layer. Choices beyond a capacity are dropped, as in the paper. */
export interface LayerSettings {
  readonly dispatch: 'ragged' | 'padded';
  readonly capacity: nn.Capacity;
}

/** 784 pixels -> 64 -> 10 classes: the experts of the paper's classifier of digits. */
const denseExpert = (): nn.MLP => new nn.MLP([784, 64, 10]);

/**
 * Two convolutions of 3 x 3, each with ReLU and max-pooling, and a linear map. There is no batch normalisation, as in
 * the paper.
 */
const convExpert = (): nn.Sequential =>
  new nn.Sequential(
    (x: Tensor) => ops.reshape(x, [-1, 28, 28, 1]),
    new nn.Conv2d(1, 8, 3, { padding: 'same' }),
    ops.relu,
    new nn.MaxPool2d(2),
    new nn.Conv2d(8, 16, 3, { padding: 'same' }),
    ops.relu,
    new nn.MaxPool2d(2),
    new nn.Flatten(),
    new nn.Linear(7 * 7 * 16, 10),
  );

export interface ClassifierOptions {
  readonly experts: number;
  readonly kind: 'dense' | 'conv';
  /** The paper's lambda: the coefficient of the balance loss. */
  readonly lambda: number;
}

/**
 * Two experts process each digit; the logits are the weighted sum of theirs. A digit that both drop gets logits of
 * zero, which gives all classes the same probability.
 */
export class Classifier {
  readonly moe: nn.MoE;
  constructor({ experts, kind, lambda }: ClassifierOptions, layer: LayerSettings) {
    this.moe = new nn.MoE({
      dModel: 784,
      topK: 2,
      experts: Array.from({ length: experts }, kind === 'dense' ? denseExpert : convExpert),
      balance: lambda,
      zLoss: 0,
      ...layer,
    });
  }

  /** float32 [batch, 784] -> logits [batch, 10] */
  forward(x: Tensor): Tensor {
    return call(this.moe, x);
  }
}

/**
 * Top-k with a bias on the logits that is not trained (`skewed` sets it), and weights that do not change: the loads are
 * the same in every row of the table.
 */
class SkewedRouter extends nn.TopKRouter {
  readonly bias: Parameter; // [experts]
  constructor(options: nn.RouterOptions) {
    super(options);
    this.bias = new Parameter([options.experts], { kind: 'constant', value: 0 }, { trained: false });
    this.weight.frozen = true;
  }

  protected override logits(x: Tensor): Tensor {
    return ops.add(super.logits(x), use(x, this.bias));
  }
}

/** The bias -skew ln(rank): expert 0 gets the highest load. */
export const skewed = (experts: number, skew: number): Float32Array =>
  Float32Array.from({ length: experts }, (_, e) => -skew * Math.log(e + 1));

export interface WideLayerOptions {
  readonly width: number;
  readonly hidden: number;
  readonly experts: number;
}

/** One MoE layer, width -> hidden -> width, with a skewed router: the first experts get the highest loads. */
export class WideLayer {
  readonly moe: nn.MoE;
  constructor({ width, hidden, experts }: WideLayerOptions, layer: LayerSettings) {
    this.moe = new nn.MoE({
      dModel: width,
      experts,
      topK: 2,
      hidden,
      activation: 'relu',
      router: new SkewedRouter({ dModel: width, experts }),
      ...layer,
    });
  }

  /** float32 [tokens, width] -> [tokens, width] */
  forward(x: Tensor): Tensor {
    return call(this.moe, x);
  }
}

/** The model of `dynamoe train`: 4 blocks of width 128, 8 experts of hidden size 256, top-2. */
export const languageModel = (layer: LayerSettings): nn.TransformerLM =>
  new nn.TransformerLM({
    vocab: 256,
    layers: 4,
    dModel: 128,
    heads: 4,
    context: 64,
    moe: { experts: 8, topK: 2, hidden: 256, ...layer },
  });
