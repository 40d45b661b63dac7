// Causal multi-head self-attention with rotary positions, and its form with a cache of keys and values for generation.
import { boundOf } from '../base/shape.ts';
import { UserError } from '../base/errors.ts';
import type { Tensor } from '../graph/tensor.ts';
import { add } from '../graph/ops/add.ts';
import { attention } from '../graph/ops/attention.ts';
import { gather } from '../graph/ops/gather.ts';
import { reshape } from '../graph/ops/reshape.ts';
import { rope } from '../graph/ops/rope.ts';
import { slice } from '../graph/ops/slice.ts';
import { updateRows } from '../graph/ops/updateRows.ts';
import { call, traceOf, type Trace } from '../trace/trace.ts';
import { Linear } from './linear.ts';

export interface AttentionOptions {
  readonly dModel: number;
  readonly heads: number;
  /** Longest sequence. */
  readonly context: number;
  /** Standard deviation of the output projection's starting weights. */
  readonly outStd?: number;
  /** Base of the rotary frequencies (Su et al. 2021); default 10,000. */
  readonly ropeBase?: number;
}

/** Where a cached step stands: the tokens of x are those at `position`, `position` + 1, ... of the sequence. */
export interface Cached { readonly position: Tensor }

/** [batch, time, dModel] -> [batch, time, dModel]: each position sees itself and those before it. */
export class CausalSelfAttention {
  readonly qkv: Linear; // [dModel, 3 dModel]
  readonly out: Linear; // [dModel, dModel]
  readonly #options: AttentionOptions;

  constructor(options: AttentionOptions) {
    const { dModel, heads, outStd } = options;
    if (dModel % heads !== 0 || (dModel / heads) % 2 !== 0) {
      throw new UserError(`attention: width ${dModel} cannot be split into ${heads} heads of even width`);
    }
    this.qkv = new Linear(dModel, 3 * dModel, { bias: false });
    this.out = new Linear(dModel, dModel, { bias: false, ...(outStd !== undefined && { std: outStd }) });
    this.#options = options;
  }

  forward(x: Tensor, cached?: Cached): Tensor {
    const { dModel, heads, context } = this.#options, trace = traceOf(x), width = dModel / heads;
    const [batch, time] = x.shape.map(boundOf);
    if (time > context) throw new UserError(`a sequence of ${time} tokens is longer than the model's context of ${context}`);
    const qkv = reshape(call(this.qkv, x), [batch, time, 3, heads, width]);
    const part = (i: number): Tensor => reshape(slice(qkv, 2, i, i + 1), [batch, time, heads, width]); // [B, T, H, Dh]
    const [cos, sin] = this.#rotation(trace, time, cached);
    const q = rope(part(0), cos, sin), k = rope(part(1), cos, sin), v = part(2);
    const zero = trace.emit('constant', [], { value: 0, dtype: 'int32', shape: [] })[0];
    const out = cached
      ? attention(q, this.#cache(trace, 'k', k, cached), this.#cache(trace, 'v', v, cached), cached.position, { causal: true })
      : attention(q, k, v, zero, { causal: true });
    return call(this.out, reshape(out, [batch, time, dModel]));
  }

  /** Cosines and sines of this step's positions: [time, width / 2] each. */
  #rotation(trace: Trace, time: number, cached?: Cached): [Tensor, Tensor] {
    const { dModel, heads, context, ropeBase = 10_000 } = this.#options, half = dModel / heads / 2;
    const rows = cached ? context : time;
    const table = (f: (angle: number) => number): Tensor => trace.constant({ dtype: 'float32', shape: [rows, half] },
      Float32Array.from({ length: rows * half }, (_, i) => f(Math.floor(i / half) * ropeBase ** (-(i % half) / half))));
    const [cos, sin] = [table(Math.cos), table(Math.sin)];
    if (!cached) return [cos, sin];
    const steps = trace.constant({ dtype: 'int32', shape: [time] }, Int32Array.from({ length: time }, (_, i) => i));
    const positions = add(steps, cached.position);
    return [gather(cos, positions), gather(sin, positions)];
  }

  /** The cache [batch, context, heads, width] with this step's rows written, which is also its next value. */
  #cache(trace: Trace, name: string, rows: Tensor, { position }: Cached): Tensor {
    const [batch, , heads, width] = rows.shape.map(boundOf);
    const state = trace.state(`cache/${name}/${trace.pathOf(this)}`, { dtype: 'float32', shape: [batch, this.#options.context, heads, width] });
    const next = updateRows(state, rows, position);
    trace.update(state, next);
    return next;
  }
}
