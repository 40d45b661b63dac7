// The uniform bank of feed-forward experts: all experts' rows lie in one ragged buffer and go through grouped matrix
// products.
import { UserError } from '../../base/errors.ts';
import { checkOptions, type KeysOf } from '../../base/options.ts';
import { aFlag, aSize, aText, atLeast0, needed } from '../../base/kinds.ts';
import { emit1, type Tensor } from '../../graph/tensor.ts';
import { add } from '../../graph/ops/elementwise/add.ts';
import { gelu } from '../../graph/ops/elementwise/gelu.ts';
import { groupedMatmul } from '../../graph/ops/matmul/groupedMatmul.ts';
import { mul } from '../../graph/ops/elementwise/mul.ts';
import { relu } from '../../graph/ops/elementwise/relu.ts';
import { segmentExpand } from '../../graph/ops/moe/segmentExpand.ts';
import { silu } from '../../graph/ops/elementwise/silu.ts';
import { slice } from '../../graph/ops/shape/slice.ts';
import { reshape } from '../../graph/ops/shape/reshape.ts';
import { expand } from '../../graph/ops/shape/expand.ts';
import { matmul } from '../../graph/ops/matmul/matmul.ts';
import { boundOf } from '../../base/shape.ts';
import { markOfExperts, Parameter } from '../../trace/parameter.ts';
import { use } from '../../trace/trace.ts';

export const ACTIVATIONS = ['relu', 'gelu', 'swiglu'] as const;
export type Activation = (typeof ACTIVATIONS)[number];

export interface ExpertsOptions {
  readonly experts: number;
  readonly dModel: number;
  readonly hidden: number;
  readonly activation?: Activation;
  readonly bias?: boolean;
  readonly outStd?: number;
}
const KEYS: KeysOf<ExpertsOptions> = {
  experts: needed(aSize),
  dModel: needed(aSize),
  hidden: needed(aSize),
  activation: aText,
  bias: aFlag,
  outStd: atLeast0,
};

/** A bank's parameters as tensors. */
export interface Used {
  readonly w1: Tensor;
  readonly b1: Tensor | null;
  readonly w2: Tensor;
  readonly b2: Tensor | null;
}

/**
 * Rows of expert e: act(x W1[e] + b1[e]) W2[e] + b2[e]. SwiGLU: (silu(x W1) * (x W3)) W2 with W1 and W3 side by side.
 */
export class ExpertBank {
  readonly w1: Parameter; // [experts, dModel, hidden]; SwiGLU: [experts, dModel, 2 hidden]
  readonly w2: Parameter; // [experts, hidden, dModel]
  readonly b1: Parameter | null;
  readonly b2: Parameter | null;
  readonly #activation: Activation;

  constructor(options: ExpertsOptions) {
    checkOptions('ExpertBank', options, KEYS);
    const { experts, dModel, hidden, activation = 'gelu', bias = false, outStd = 1 / Math.sqrt(hidden) } = options;
    if (!ACTIVATIONS.includes(activation))
      throw new UserError(`no activation named ${String(activation)}`, `one of ${ACTIVATIONS.join(', ')}`);
    const wide = activation === 'swiglu' ? 2 * hidden : hidden;
    const zeros = (n: number): Parameter | null =>
      bias ? new Parameter([experts, n], { kind: 'constant', value: 0 }, { role: 'bias' }) : null;
    this.w1 = new Parameter([experts, dModel, wide], { kind: 'normal', std: 1 / Math.sqrt(dModel) });
    this.w2 = new Parameter([experts, hidden, dModel], { kind: 'normal', std: outStd });
    this.b1 = zeros(wide);
    this.b2 = zeros(dModel);
    for (const p of [this.w1, this.w2, this.b1, this.b2]) if (p) markOfExperts(p);
    this.#activation = activation;
  }

  /**
   * The parameters as tensors in the graph of x. apart: gradients from these tensors are summed before the gradients of
   * other uses of the parameters are added.
   */
  used(x: Tensor, apart = false): Used {
    const get = (p: Parameter): Tensor => (apart ? emit1('reshape', [use(x, p)], { shape: p.shape }) : use(x, p));
    return { w1: get(this.w1), b1: this.b1 && get(this.b1), w2: get(this.w2), b2: this.b2 && get(this.b2) };
  }

  /** rows [segmented, dModel], expert of each row int32 -> [segmented, dModel]. more: as of groupedMatmul. */
  forward(
    rows: Tensor,
    expert: Tensor,
    {
      used: { w1, b1, w2, b2 } = this.used(rows),
      more = false,
    }: { readonly used?: Used; readonly more?: boolean } = {},
  ): Tensor {
    const linear = (x: Tensor, w: Tensor, b: Tensor | null): Tensor => {
      const y = groupedMatmul(x, w, { more });
      return b ? add(y, segmentExpand(b, expert, y, { more })) : y;
    };
    return linear(this.#activate(linear(rows, w1, b1)), w2, b2);
  }

  /** x [experts, rows, dModel] -> [experts, rows, dModel]: as many rows for each expert. */
  batched(x: Tensor): Tensor {
    return this.#dense(x, (p) => use(x, p), 1);
  }

  /** x [rows, dModel] -> [rows, dModel]: all through expert e. The number of rows may vary. */
  one(x: Tensor, e: number): Tensor {
    return this.#dense(x, (p) => reshape(slice(use(x, p), 0, e, e + 1), p.shape.slice(1)), 0);
  }

  /** rows: the dimension of x that the biases have not. */
  #dense(x: Tensor, get: (p: Parameter) => Tensor, rows: number): Tensor {
    const linear = (h: Tensor, w: Parameter, b: Parameter | null): Tensor => {
      const y = matmul(h, get(w));
      return b ? add(y, expand(get(b), y, [rows])) : y;
    };
    return linear(this.#activate(linear(x, this.w1, this.b1)), this.w2, this.b2);
  }

  #activate(h: Tensor): Tensor {
    if (this.#activation === 'relu') return relu(h);
    if (this.#activation === 'gelu') return gelu(h);
    const last = h.shape.length - 1,
      width = boundOf(h.shape[last]) / 2;
    return mul(silu(slice(h, last, 0, width)), slice(h, last, width, 2 * width));
  }
}
