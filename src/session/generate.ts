// Text from a language model: one token after the other, with the keys and values of the tokens before kept in a cache.
import { UserError } from '../base/errors.ts';
import { checkOptions, refuseUnused, type KeysOf } from '../base/options.ts';
import { Stream } from '../base/random.ts';
import type { Tensor } from '../graph/tensor.ts';
import { call } from '../trace/trace.ts';
import type { Session } from './session.ts';

/** A model that can go on from a cache: `cached.position` is the place of x's first token in the sequence. */
export interface CachedModel {
  readonly options: { readonly context: number; readonly vocab: number };
  forward(tokens: Tensor, cached?: { readonly position: Tensor }): Tensor;
}

export interface GenerateOptions {
  readonly tokens: number;
  /** 0 takes the most probable token; default 1. */
  readonly temperature?: number;
  /** Draws from the k most probable tokens only; default all. */
  readonly topK?: number;
  readonly seed?: number;
}
const KEYS: KeysOf<GenerateOptions> = { tokens: 'required', temperature: 'optional', topK: 'optional', seed: 'optional' };

const CHUNK = 16; // tokens of a prompt that go through the model at once

/** Yields `tokens` tokens that follow the prompt. When the context is full, its second half is read again and it goes on. */
export async function* generate(session: Session, prompt: ArrayLike<number>, options: GenerateOptions): AsyncGenerator<number> {
  checkOptions('generate', options, KEYS);
  const { tokens, temperature = 1, topK = Infinity, seed = 0 } = options;
  if (!(tokens >= 0)) throw new UserError(`generate: tokens must be a number of at least 0, got ${tokens}`, 'generate(session, prompt, { tokens: 100 })');
  if (!isCachedModel(session.model)) throw new UserError('generate needs a model with a cache, such as nn.TransformerLM');
  if (!(temperature >= 0)) throw new UserError(`temperature must be at least 0, got ${temperature}`);
  const certain = temperature === 0 && 'at temperature 0 the most probable token is taken';
  refuseUnused('generate', options, { topK: certain, seed: certain });
  if (!(topK >= 1)) throw new UserError(`top-k must be at least 1, got ${topK}`);
  const { context, vocab } = session.model.options, model = session.model;
  const stream = new Stream(seed, 'generate');
  let sequence = Array.from(prompt).slice(-context), cached = 0;
  if (sequence.length === 0) sequence = [10]; // a line begins
  const bad = sequence.find((t) => !Number.isInteger(t) || t < 0 || t >= vocab);
  if (bad !== undefined) throw new UserError(`the prompt holds token ${bad}, the model knows 0..${vocab - 1}`);

  for (let made = 0; made < tokens; made++) {
    if (sequence.length > context) {
      sequence = sequence.slice(-Math.floor(context / 2));
      cached = 0;
    }
    let logits = new Float64Array(0);
    while (cached < sequence.length) {
      const size = sequence.length - cached === 1 ? 1 : Math.min(CHUNK, context - cached), part = sequence.slice(cached, cached + size);
      logits = await run(size, part, cached);
      cached += part.length;
    }
    const next = draw(logits, temperature, topK, stream.uniform(0, made));
    sequence.push(next);
    yield next;
  }

  /** Logits after the last token of `part`. A short last chunk is filled up with zeros, which later tokens overwrite. */
  async function run(size: number, part: readonly number[], position: number): Promise<Float64Array<ArrayBuffer>> {
    const x = new Int32Array(size);
    x.set(part);
    const out = await session.runGraph(`generate ${size}`, (t) => {
      const input = t.input('input', 'tokens', { dtype: 'int32', shape: [1, size] });
      t.output('logits', call(model, input, { position: t.scalar('position', 'int32') }));
    }, { tokens: x, position: Int32Array.of(position) });
    const all = out['logits'].data, last = part.length - 1;
    return Float64Array.from(all.subarray(last * vocab, (last + 1) * vocab));
  }
}

function isCachedModel(model: object): model is CachedModel {
  return 'options' in model && typeof model.options === 'object' && model.options !== null && 'context' in model.options && 'vocab' in model.options;
}

/** Draws a token by `u` in [0, 1) from softmax(logits / temperature) restricted to the k largest. */
function draw(logits: Float64Array, temperature: number, k: number, u: number): number {
  const order = Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b).slice(0, Math.min(k, logits.length));
  if (temperature === 0) return order[0];
  const weights = order.map((i) => Math.exp((logits[i] - logits[order[0]]) / temperature));
  let left = u * weights.reduce((a, b) => a + b, 0);
  for (let i = 0; i < order.length; i++) {
    left -= weights[i];
    if (left < 0) return order[i];
  }
  return order[order.length - 1];
}
