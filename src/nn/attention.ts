// Causal self-attention with rotary positions, optionally with fewer heads of keys and values than of queries (Ainslie
// et al. 2023), and its form with a cache of keys and values for generation.
import { boundOf, isDynamic } from '../base/shape.ts';
import { UserError } from '../base/errors.ts';
import { fixedCopy } from '../base/fixed.ts';
import { checkOptions, type KeysOf } from '../base/options.ts';
import { above0, aSize, atLeast0, needed } from '../base/kinds.ts';
import type { Tensor } from '../graph/tensor.ts';
import { attention } from '../graph/ops/attention/attention.ts';
import { reshape } from '../graph/ops/shape/reshape.ts';
import { rope } from '../graph/ops/attention/rope.ts';
import { slice } from '../graph/ops/shape/slice.ts';
import { updateRows } from '../graph/ops/shape/updateRows.ts';
import { CACHES } from '../graph/state.ts';
import { call, traceOf, type Trace } from '../trace/trace.ts';
import { Linear } from './linear.ts';
import { rotation } from './rotary.ts';

export interface AttentionOptions {
  readonly dModel: number;
  readonly heads: number;
  /** Heads of keys and values, each shared by heads / kvHeads heads of queries; default `heads`. */
  readonly kvHeads?: number;
  /** Longest sequence. */
  readonly context: number;
  /** Standard deviation of the output projection's starting weights. */
  readonly outStd?: number;
  /** Base of the rotary frequencies (Su et al. 2021); default 10,000. */
  readonly ropeBase?: number;
}
const KEYS: KeysOf<AttentionOptions> = {
  dModel: needed(aSize),
  heads: needed(aSize),
  kvHeads: aSize,
  context: needed(aSize),
  outStd: atLeast0,
  ropeBase: above0,
};

/** Position of a cached step: the tokens of x are at `position`, `position` + 1, ... of the sequence. */
export interface Cached {
  readonly position: Tensor;
}

/** Checks how a width is split into heads; gives the width of one. */
export function headWidth(
  layer: string,
  { dModel, heads, kvHeads = heads }: Pick<AttentionOptions, 'dModel' | 'heads' | 'kvHeads'>,
  even: boolean,
): number {
  const width = dModel / heads;
  if (!Number.isInteger(width) || (even && width % 2 !== 0)) {
    throw new UserError(`${layer}: width ${dModel} cannot be split into ${heads} heads${even ? ' of even width' : ''}`);
  }
  if (!(kvHeads >= 1 && Number.isInteger(heads / kvHeads))) {
    throw new UserError(
      `${layer}: ${heads} heads cannot share ${kvHeads} heads of keys evenly`,
      'kvHeads must divide heads',
    );
  }
  return width;
}

/**
 * [batch, time, dModel] -> [batch, time, dModel]: each position attends to itself and earlier ones. Also rows, [rows,
 * dModel], segmented by sample: each attends to itself and earlier ones of its sample. A cached step takes rows of one
 * sequence.
 */
export class CausalSelfAttention {
  readonly qkv: Linear; // [dModel, dModel + 2 kvHeads * width of a head]: queries, keys, values
  readonly out: Linear; // [dModel, dModel]
  readonly #options: AttentionOptions;

  constructor(options: AttentionOptions) {
    checkOptions('CausalSelfAttention', options, KEYS);
    const { dModel, heads, kvHeads = heads, outStd } = options,
      width = headWidth('attention', options, true);
    this.qkv = new Linear(dModel, dModel + 2 * kvHeads * width, { bias: false });
    this.out = new Linear(dModel, dModel, { bias: false, ...(outStd !== undefined && { std: outStd }) });
    this.#options = fixedCopy(options);
  }

  forward(x: Tensor, cached?: Cached): Tensor {
    const { dModel, heads, kvHeads = heads, context, ropeBase } = this.#options,
      trace = traceOf(x),
      width = dModel / heads;
    const lead = x.shape.slice(0, -1).map(boundOf),
      // How long a sample of rows is, is known at run time alone: the session checks it.
      time = isDynamic(x.shape) ? context : lead[1];
    if (time > context)
      throw new UserError(`a sequence of ${time} tokens is longer than the model's context of ${context}`);
    const qkv = reshape(call(this.qkv, x), [...lead, heads + 2 * kvHeads, width]);
    // [..., count, width]
    const part = (from: number, count: number): Tensor => slice(qkv, lead.length, from, from + count);
    const [cos, sin] = rotation(qkv, {
      width,
      time,
      ...(ropeBase !== undefined && { base: ropeBase }),
      ...(cached && { cached: { ...cached, context } }),
    });
    const q = rope(part(0, heads), cos, sin),
      k = rope(part(heads, kvHeads), cos, sin),
      v = part(heads + kvHeads, kvHeads);
    const out = cached
      ? attention(q, this.#cache(trace, 'k', k, cached), this.#cache(trace, 'v', v, cached), cached.position, {
          causal: true,
        })
      : attention(q, k, v, 0, { causal: true });
    return call(this.out, reshape(out, [...lead, dModel]));
  }

  /**
   * The cache [batch, context, kvHeads, width] with this step's rows written, which is also its next value. Its sizes
   * are part of its name, so that another number of sequences has another cache.
   */
  #cache(trace: Trace, name: string, rows: Tensor, { position }: Cached): Tensor {
    const [heads, width] = rows.shape.slice(-2).map(boundOf),
      batch = isDynamic(rows.shape) ? 1 : boundOf(rows.shape[0]);
    const shape = [batch, this.#options.context, heads, width];
    const state = trace.state(`${CACHES}${name}/${trace.pathOf(this)}/${shape.join('x')}`, {
      dtype: rows.dtype,
      shape,
    });
    const next = updateRows(state, rows, position);
    trace.update(state, next);
    return next;
  }
}
