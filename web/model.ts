// The playground's model: sine waves over the plane, one mixture-of-experts layer, two output colours. It is small, so
// that a page can train it with some hundred steps per second.
import { call, nn, ops, type Tensor } from 'dynamoe/whole';

export const EXPERTS = 8;
const WIDTH = 32,
  HIDDEN = 48,
  WAVES = 5;

export type Overflow = 'drop' | 'spill';

export class Painter {
  readonly waves = new nn.Linear(2, WIDTH, { std: WAVES });
  readonly moe: nn.MoE;
  readonly output = new nn.Linear(WIDTH, 2);

  constructor(overflow: Overflow) {
    this.moe = new nn.MoE({
      dModel: WIDTH,
      experts: EXPERTS,
      topK: 2,
      hidden: HIDDEN,
      activation: 'gelu',
      dispatch: 'padded',
      capacity: 1.25,
      overflow,
      balance: 0.002,
    });
  }

  /** float32 [points, 2] -> logits [points, 2] */
  forward(x: Tensor): Tensor {
    const h = this.#hidden(x);
    return call(this.output, ops.add(h, call(this.moe, h)));
  }

  #hidden(x: Tensor): Tensor {
    return ops.sin(call(this.waves, x));
  } // [points, WIDTH]

  /** The same without any capacity, for a picture of the whole plane: every expert for every point. points: how many.
   * colours float32 [points, 2], probabilities; experts int32 [points, 2], the first choice first. */
  picture(x: Tensor, points: number): { colours: Tensor; experts: Tensor } {
    const h = this.#hidden(x),
      bank = this.moe.experts as nn.ExpertBank,
      { indices, weights } = this.moe.router.choose(h, { k: this.moe.topK });
    const all = bank.batched(ops.broadcastTo(h, [EXPERTS, points, WIDTH])); // [experts, points, width]
    // [points, experts]
    const gate = ops.sum(ops.mul(ops.oneHot(indices, EXPERTS), ops.reshape(weights, [points, this.moe.topK, 1])), [1]);
    const mixed = ops.sum(ops.mul(all, ops.reshape(ops.transpose(gate, [1, 0]), [EXPERTS, points, 1])), [0]);
    return { colours: ops.softmax(call(this.output, ops.add(h, mixed))), experts: indices };
  }
}
