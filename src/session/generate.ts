// Generates tokens from a language model one by one. Keys and values of earlier tokens are kept in a cache.
import { UserError } from '../base/errors.ts';
import { checkOptions, refuseUnused, type KeysOf } from '../base/options.ts';
import { aNumber, anything, needed } from '../base/kinds.ts';
import { checkSeed, Stream } from '../base/random.ts';
import type { Tensor } from '../graph/tensor.ts';
import { asError } from '../recompile/pending.ts';
import { call } from '../trace/trace.ts';
import type { Session } from './session.ts';

/** A model that can use a cache of earlier tokens. cached.position: index of x's first token in the sequence. */
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

const KEYS: KeysOf<GenerateOptions> = { tokens: needed(aNumber), temperature: aNumber, topK: aNumber, seed: anything };

const CHUNK = 16; // tokens of a prompt that are computed in one run
const BYTES = 256,
  NEWLINE = 10; // for a model of bytes, an empty prompt means the start of a line

/**
 * Yields `tokens` tokens that continue the prompt. When the context is full, the second half of it is computed again
 * and generation continues from there. Each call has its own cache, so calls may run at the same time; the cache takes
 * memory from the first token until the generator ends, returns or throws (leaving a `for await` loop returns it).
 * Each token is one call in the session's order, so a training step between two tokens affects the later ones. Throws
 * UserError, at the first token, for invalid options or prompts, and where logits are not finite. MoE layers with
 * `overflow: 'drop'` drop choices among the tokens of one run: 16 tokens of a prompt, then each token alone, for which
 * nothing is dropped.
 */
export function generate(
  session: Session,
  prompt: ArrayLike<number>,
  options: GenerateOptions,
): AsyncGenerator<number> {
  try {
    return tokensOf(session, requestOf(session, prompt, options));
  } catch (error) {
    return failing(asError(error));
  }
}

async function* failing(error: Error): AsyncGenerator<number> {
  throw await Promise.resolve(error);
}

interface Request extends Required<GenerateOptions> {
  readonly model: CachedModel;
  readonly prompt: readonly number[];
}

/** Checks the arguments and copies the prompt. */
function requestOf({ model }: Session, given: ArrayLike<number>, options: GenerateOptions): Request {
  checkOptions('generate', options, KEYS);
  const { tokens, temperature = 1, topK = Infinity, seed = 0 } = options,
    whole = (n: number, least: number): boolean => n >= least && (Number.isInteger(n) || n === Infinity);
  if (!whole(tokens, 0))
    throw new UserError(
      `generate: tokens must be a whole number of at least 0, got ${tokens}`,
      'generate(session, prompt, { tokens: 100 })',
    );
  if (!isCachedModel(model)) throw new UserError('generate needs a model with a cache, such as nn.TransformerLM');
  if (!(temperature >= 0)) throw new UserError(`generate: temperature must be at least 0, got ${temperature}`);
  const certain = temperature === 0 && 'at temperature 0 the most probable token is taken';
  refuseUnused('generate', options, { topK: certain, seed: certain });
  if (!whole(topK, 1)) throw new UserError(`generate: topK must be a whole number of at least 1, got ${topK}`);
  checkSeed('generate', seed);
  const { vocab } = model.options,
    what: unknown = given;
  if (typeof what === 'string') {
    throw new UserError(
      `generate: the prompt must be tokens, numbers from 0 to ${vocab - 1}, got text`,
      vocab === BYTES
        ? 'new TextEncoder().encode(text) gives the bytes of a text'
        : 'the tokenizer of the model gives them',
    );
  }
  if (typeof what !== 'object' || what === null || typeof (what as { length?: unknown }).length !== 'number')
    throw new UserError(`generate: the prompt must be a list of tokens, got ${what === null ? 'null' : typeof what}`);
  const prompt = Array.from(given),
    bad = prompt.findIndex((t) => !Number.isInteger(t) || t < 0 || t >= vocab);
  if (bad >= 0)
    throw new UserError(`the prompt holds token ${String(prompt[bad])} (at ${bad}), the model knows 0..${vocab - 1}`);
  if (prompt.length === 0 && vocab !== BYTES)
    throw new UserError('generate: the prompt is empty', 'give one token at least, such as the one that begins a text');
  return { tokens, temperature, topK, seed, model, prompt: prompt.length === 0 ? [NEWLINE] : prompt };
}

async function* tokensOf(
  session: Session,
  { tokens, temperature, topK, seed, model, prompt }: Request,
): AsyncGenerator<number> {
  const { context, vocab } = model.options,
    stream = new Stream(seed, 'generate');
  if (tokens === 0) return;
  const caches = session.openCaches();
  try {
    let sequence = prompt.slice(-context),
      cached = 0;
    for (let made = 0; made < tokens; made++) {
      if (sequence.length > context) {
        sequence = sequence.slice(-Math.max(1, Math.floor(context / 2)));
        cached = 0;
      }
      let logits = new Float64Array(0);
      while (cached < sequence.length) {
        const size = sequence.length - cached === 1 ? 1 : Math.min(CHUNK, context - cached),
          part = sequence.slice(cached, cached + size);
        logits = await run(size, part, cached);
        cached += part.length;
      }
      const next = draw(logits, temperature, topK, stream.uniform(0, made));
      sequence.push(next);
      yield next;
    }
  } finally {
    caches.close();
  }

  /**
   * Logits [vocab] after the last token of `part`. A short last chunk is padded with zeros, which later tokens
   * overwrite.
   */
  async function run(size: number, part: readonly number[], position: number): Promise<Float64Array<ArrayBuffer>> {
    const x = new Int32Array(size);
    x.set(part);
    const out = await session.runGraph(
      `generate ${size}`,
      (t) => {
        const input = t.input('input', 'tokens', { dtype: 'int32', shape: [1, size] });
        t.output('logits', call(model, input, { position: t.scalar('position', 'int32') }));
      },
      { tokens: x, position: Int32Array.of(position) },
      caches,
    );
    const all = out['logits'].data,
      last = part.length - 1;
    return Float64Array.from(all.subarray(last * vocab, (last + 1) * vocab));
  }
}

function isCachedModel(model: object): model is CachedModel {
  return (
    'options' in model &&
    typeof model.options === 'object' &&
    model.options !== null &&
    'context' in model.options &&
    'vocab' in model.options
  );
}

/** Draws a token by `u` in [0, 1) from softmax(logits / temperature) restricted to the k largest. */
function draw(logits: Float64Array, temperature: number, k: number, u: number): number {
  // A logit of -Infinity excludes its token; at least one token must remain.
  const least = logits.findIndex((x) => Number.isNaN(x) || x === Infinity);
  if (least >= 0 || logits.every((x) => x === -Infinity)) {
    throw new UserError(
      `generate: the logits are not finite${least >= 0 ? `: ${logits[least]} for token ${least}` : ''}`,
      'the parameters are probably not finite: load an earlier checkpoint',
    );
  }
  const order = Array.from(logits.keys())
    .sort((a, b) => logits[b] - logits[a] || a - b)
    .slice(0, Math.min(k, logits.length));
  if (temperature === 0) return order[0];
  const weights = order.map((i) =>
    logits[i] === -Infinity ? 0 : Math.exp((logits[i] - logits[order[0]]) / temperature),
  );
  let left = u * weights.reduce((a, b) => a + b, 0);
  for (let i = 0; i < order.length; i++) {
    left -= weights[i];
    if (left < 0) return order[i];
  }
  return order[order.length - 1];
}
