// Multi-head attention (Vaswani et al. 2017, section 3.2.2): over the sequence itself or another one, with masks,
// causal or not, with or without rotary positions, optionally with fewer heads of keys and values than of queries.
import { UserError } from '../base/errors.ts';
import { fixedCopy } from '../base/fixed.ts';
import { checkOptions, type KeysOf } from '../base/options.ts';
import { above0, aFlag, anObject, aSize, atLeast0, either, needed } from '../base/kinds.ts';
import { boundOf, isDynamic, showShape } from '../base/shape.ts';
import type { Tensor } from '../graph/tensor.ts';
import { attention } from '../graph/ops/attention/attention.ts';
import { reshape } from '../graph/ops/shape/reshape.ts';
import { rope } from '../graph/ops/attention/rope.ts';
import { call } from '../trace/trace.ts';
import { headWidth } from './attention.ts';
import { Linear } from './linear.ts';
import { rotation } from './rotary.ts';

export interface MultiHeadOptions {
  readonly dModel: number;
  readonly heads: number;
  /** Heads of keys and values, each shared by heads / kvHeads heads of queries; default `heads`. */
  readonly kvHeads?: number;
  /** Width of the other sequence, for cross-attention; default dModel. */
  readonly memoryWidth?: number;
  /** Whether each position attends only to itself and earlier ones; default false. */
  readonly causal?: boolean;
  /** Rotary positions with this base (10,000 for `true`); default none. Only within one sequence. */
  readonly rope?: boolean | number;
  /** Biases in all four linear maps; default true. */
  readonly bias?: boolean;
  /** Standard deviation of the output projection's starting weights. */
  readonly outStd?: number;
}
const KEYS: KeysOf<MultiHeadOptions> = {
  dModel: needed(aSize),
  heads: needed(aSize),
  kvHeads: aSize,
  memoryWidth: aSize,
  causal: aFlag,
  rope: either(aFlag, above0),
  bias: aFlag,
  outStd: atLeast0,
};

export interface MultiHeadInputs {
  /** [batch, memory, memoryWidth]: the sequence of keys and values; x itself by default. */
  readonly memory?: Tensor;
  /**
   * [batch or 1, heads or 1, time or 1, memory or 1]: bool, true where attention is allowed; or floats added to the
   * scores.
   */
  readonly mask?: Tensor;
  /** int32 [batch]: how many positions of the sequence of keys are no padding. */
  readonly lengths?: Tensor;
}
const INPUTS: KeysOf<MultiHeadInputs> = { memory: anObject, mask: anObject, lengths: anObject };

/**
 * x [batch, time, dModel] -> [batch, time, dModel]. The output is the bias where a mask allows no position. Also rows,
 * [rows, dModel], segmented by sample: each attends to rows of its sample; they take no other inputs.
 */
export class MultiHeadAttention {
  readonly q: Linear; // [dModel, dModel]
  readonly k: Linear; // [memoryWidth, kvHeads * width of a head]
  readonly v: Linear; // as k
  readonly out: Linear; // [dModel, dModel]
  readonly #options: MultiHeadOptions;

  constructor(options: MultiHeadOptions) {
    checkOptions('MultiHeadAttention', options, KEYS);
    const { dModel, heads, kvHeads = heads, memoryWidth = dModel, bias = true, outStd, rope = false } = options;
    const inner = kvHeads * headWidth('MultiHeadAttention', options, rope !== false);
    this.q = new Linear(dModel, dModel, { bias });
    this.k = new Linear(memoryWidth, inner, { bias });
    this.v = new Linear(memoryWidth, inner, { bias });
    this.out = new Linear(dModel, dModel, { bias, ...(outStd !== undefined && { std: outStd }) });
    this.#options = fixedCopy(options);
  }

  forward(x: Tensor, inputs: MultiHeadInputs = {}): Tensor {
    checkOptions('MultiHeadAttention.forward', inputs, INPUTS);
    const { memory = x, mask, lengths } = inputs,
      { dModel, heads, kvHeads = heads, causal = false, rope: rotary = false } = this.#options,
      width = dModel / heads;
    if (memory !== x && (causal || rotary !== false)) {
      throw new UserError(
        'MultiHeadAttention: causal and rope are for attention within one sequence, not over a memory',
      );
    }
    const isRows = isDynamic(x.shape) && x.shape.length === 2;
    const given = Object.entries(inputs).flatMap(([name, t]) => (t === undefined ? [] : [name]));
    if (isRows && given.length > 0)
      throw new UserError(
        `MultiHeadAttention: rows segmented by sample take no ${given.join(', ')}`,
        'leave rows out: each segment has the rows that are to be seen, and no others',
      );
    if (!isRows && (x.shape.length !== 3 || memory.shape.length !== 3)) {
      throw new UserError(
        `MultiHeadAttention: takes [batch, time, width], got ${showShape(x.shape)} and ${showShape(memory.shape)}`,
      );
    }
    const lead = x.shape.slice(0, -1).map(boundOf),
      others = memory.shape.slice(0, -1).map(boundOf),
      time = lead[lead.length - 1];
    const table = rotary === false ? null : rotation(x, { width, time, ...(rotary !== true && { base: rotary }) });
    const turned = (t: Tensor): Tensor => (table ? rope(t, ...table) : t);
    const q = turned(reshape(call(this.q, x), [...lead, heads, width]));
    const k = turned(reshape(call(this.k, memory), [...others, kvHeads, width])),
      v = reshape(call(this.v, memory), [...others, kvHeads, width]);
    const mixed = attention(q, k, v, 0, { causal, ...(mask && { mask }), ...(lengths && { lengths }) });
    return call(this.out, reshape(mixed, [...lead, dModel]));
  }
}
