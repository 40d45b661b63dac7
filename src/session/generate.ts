// Generates tokens from a language model one by one. Keys and values of earlier tokens are kept in a cache.
import { UserError, asError } from '../base/errors.ts';
import { checkOptions, refuseUnused, shown, type KeysOf } from '../base/options.ts';
import { aList, aNumber, anything, aWhole, needed } from '../base/kinds.ts';
import { checkSeed, Stream } from '../base/random.ts';
import type { Bounded } from '../base/shape.ts';
import { sub } from '../graph/ops/elementwise/sub.ts';
import { gather } from '../graph/ops/shape/gather.ts';
import { reshape } from '../graph/ops/shape/reshape.ts';
import { slice } from '../graph/ops/shape/slice.ts';
import { scalar, type Tensor } from '../graph/tensor.ts';
import { call } from '../trace/trace.ts';
import { drawToken, logprobsOf, type Likely, type Sampling } from './sampling.ts';
import type { Session } from './session.ts';

/** A model that can use a cache of earlier tokens. cached.position: index of x's first token in the sequence. */
export interface CachedModel {
  readonly options: { readonly context: number; readonly vocab: number };
  /** Given by a model that also takes rows (`Model.sequences`): then chunks of all sizes run the same program. */
  readonly sequences?: { readonly longest: number };
  forward(tokens: Tensor, cached?: { readonly position: Tensor }): Tensor;
}

export interface GenerateOptions {
  readonly tokens: number;
  /** 0 takes the most probable token; default 1. */
  readonly temperature?: number;
  /** Draws from the k most probable tokens only; default all. */
  readonly topK?: number;
  /**
   * Draws from the fewest of the most probable tokens that together have this probability, after `temperature` and
   * `topK`; default 1 (Holtzman et al. 2020).
   */
  readonly topP?: number;
  /** Draws no token with less than this share of the largest probability; default 0 (Nguyen et al. 2024). */
  readonly minP?: number;
  /**
   * Makes tokens of the prompt and of the text so far less probable: their logits are divided by this number, or
   * multiplied if they are below 0; default 1 (CTRL: Keskar et al. 2019).
   */
  readonly repetitionPenalty?: number;
  /**
   * Where the text ends: at a token (such as the one that ends a text), at a sequence of tokens, or, for a model of
   * bytes (a vocabulary of 256), at a string. What matched is not given.
   */
  readonly stop?: readonly (number | string | readonly number[])[];
  readonly seed?: number;
}

/** `logprobs`: how many of the most probable tokens are given with each token; default 0. */
export interface LogprobOptions extends GenerateOptions {
  readonly logprobs?: number;
}

/** A token of the text, and the most probable tokens in its place, in descending order. */
export interface TokenLogprob extends Likely {
  readonly top: readonly Likely[];
}

const KEYS: KeysOf<GenerateOptions> = {
  tokens: needed(aNumber),
  temperature: aNumber,
  topK: aNumber,
  topP: aNumber,
  minP: aNumber,
  repetitionPenalty: aNumber,
  stop: aList,
  seed: anything,
};

const CHUNK = 16; // the most tokens of a prompt that are computed in one run
export const BYTES = 256,
  NEWLINE = 10; // for a model of bytes, an empty prompt means the start of a line

/** `generate` of later.ts, with its arguments checked at once. */
export function generate(
  session: Session,
  prompt: ArrayLike<number>,
  options: GenerateOptions,
): AsyncGenerator<number> {
  return begun(
    () => requestOf('generate', session, prompt, options, KEYS),
    async function* (request) {
      for await (const { token } of textOf(session, request)) yield token;
    },
  );
}

/** The same of `generateLogprobs`. */
export function generateLogprobs(
  session: Session,
  prompt: ArrayLike<number>,
  options: LogprobOptions,
): AsyncGenerator<TokenLogprob> {
  return begun(
    () => requestOf('generateLogprobs', session, prompt, options, { ...KEYS, logprobs: aWhole(0) }),
    async function* (request) {
      for await (const { token, logits } of textOf(session, request))
        yield { token, ...logprobsOf(logits, token, options.logprobs ?? 0) };
    },
  );
}

/** Checks the arguments at once; an error is thrown when the first token is asked for. */
function begun<T>(check: () => Request, text: (request: Request) => AsyncGenerator<T>): AsyncGenerator<T> {
  try {
    return text(check());
  } catch (error) {
    return failing(asError(error));
  }
}

async function* failing(error: Error): AsyncGenerator<never> {
  throw await Promise.resolve(error);
}

interface Request extends Sampling {
  readonly model: CachedModel;
  readonly prompt: readonly number[];
  readonly tokens: number;
  readonly seed: number;
  readonly stop: readonly (readonly number[])[];
}

/** A token, and the logits from which it was drawn. */
interface Drawn {
  readonly token: number;
  readonly logits: Float64Array;
}

/** Checks the arguments and copies the prompt. */
function requestOf<T extends GenerateOptions>(
  where: string,
  { model }: Session,
  given: ArrayLike<number>,
  options: T,
  keys: KeysOf<T>,
): Request {
  checkOptions(where, options, keys);
  const { tokens, temperature = 1, topK = Infinity, topP = 1, minP = 0, repetitionPenalty = 1, seed = 0 } = options,
    whole = (n: number, least: number): boolean => n >= least && (Number.isInteger(n) || n === Infinity);
  if (!whole(tokens, 0))
    throw new UserError(
      `${where}: tokens must be a whole number of at least 0, got ${tokens}`,
      `${where}(session, prompt, { tokens: 100 })`,
    );
  if (!isCachedModel(model)) throw new UserError(`${where} needs a model with a cache, such as nn.TransformerLM`);
  if (!(temperature >= 0)) throw new UserError(`generate: temperature must be at least 0, got ${temperature}`);
  const certain = temperature === 0 && 'at temperature 0 the most probable token is taken';
  refuseUnused<GenerateOptions>(where, options, { topK: certain, topP: certain, minP: certain, seed: certain });
  if (!whole(topK, 1)) throw new UserError(`${where}: topK must be a whole number of at least 1, got ${topK}`);
  if (!(topP > 0 && topP <= 1)) throw new UserError(`${where}: topP must be above 0 and at most 1, got ${topP}`);
  if (!(minP >= 0 && minP <= 1)) throw new UserError(`${where}: minP must be from 0 to 1, got ${minP}`);
  if (!(repetitionPenalty > 0 && repetitionPenalty < Infinity))
    throw new UserError(
      `${where}: repetitionPenalty must be a finite number above 0, got ${repetitionPenalty}`,
      '1: no penalty; 1.1 to 1.3 are usual',
    );
  checkSeed(where, seed);
  const { vocab } = model.options,
    what: unknown = given;
  if (typeof what === 'string') {
    throw new UserError(
      `${where}: the prompt must be tokens, numbers from 0 to ${vocab - 1}, got text`,
      vocab === BYTES
        ? 'new TextEncoder().encode(text) gives the bytes of a text'
        : 'the tokenizer of the model gives them',
    );
  }
  if (typeof what !== 'object' || what === null || typeof (what as { length?: unknown }).length !== 'number')
    throw new UserError(`${where}: the prompt must be a list of tokens, got ${what === null ? 'null' : typeof what}`);
  const prompt = Array.from(given),
    bad = prompt.findIndex((t) => !Number.isInteger(t) || t < 0 || t >= vocab);
  if (bad >= 0)
    throw new UserError(`the prompt holds token ${String(prompt[bad])} (at ${bad}), the model knows 0..${vocab - 1}`);
  if (prompt.length === 0 && vocab !== BYTES)
    throw new UserError(`${where}: the prompt is empty`, 'give one token at least, such as the one that begins a text');
  return {
    ...{ tokens, temperature, topK, topP, minP, repetitionPenalty, seed, model },
    stop: (options.stop ?? []).map((end, i) => stopOf(end, vocab, `${where}: stop[${i}]`)),
    prompt: prompt.length === 0 ? [NEWLINE] : prompt,
  };
}

/** The tokens of one entry of `stop`. */
function stopOf(end: unknown, vocab: number, where: string): readonly number[] {
  if (typeof end === 'string' && vocab !== BYTES)
    throw new UserError(
      `${where} is a text, and the model's tokens are not bytes`,
      'give the tokens of the text, as the tokenizer of the model makes them',
    );
  const tokens: unknown = typeof end === 'string' ? [...new TextEncoder().encode(end)] : [end].flat();
  if (!Array.isArray(tokens) || tokens.length === 0)
    throw new UserError(`${where} must hold a token at least`, "stop: ['\\n\\n'], or stop: [0]");
  for (const token of tokens as readonly unknown[])
    if (!Number.isInteger(token) || (token as number) < 0 || (token as number) >= vocab)
      throw new UserError(`${where} holds ${shown(token)}, which is no token: the model knows 0..${vocab - 1}`);
  return tokens as number[];
}

/** Tokens up to where the text stops. Those that may belong to a stop sequence are given when it has not come. */
async function* textOf(session: Session, request: Request): AsyncGenerator<Drawn> {
  const { stop } = request;
  let held: Drawn[] = [];
  for await (const drawn of drawnOf(session, request)) {
    held.push(drawn);
    const matches = stop.map((tokens) => matched(held, tokens)),
      whole = matches.find((n, i) => n === stop[i].length),
      free = held.length - (whole ?? Math.max(0, ...matches));
    yield* held.slice(0, free);
    if (whole !== undefined) return;
    held = held.slice(free);
  }
  yield* held;
}

/** With how many of its first tokens a stop sequence may have begun: they are the last tokens that were drawn. */
function matched(drawn: readonly Drawn[], tokens: readonly number[]): number {
  for (let n = Math.min(tokens.length, drawn.length); n > 0; n--)
    if (tokens.slice(0, n).every((token, i) => drawn[drawn.length - n + i].token === token)) return n;
  return 0;
}

async function* drawnOf(session: Session, request: Request): AsyncGenerator<Drawn> {
  const { tokens, seed, model, prompt, repetitionPenalty } = request,
    { context } = model.options,
    rows = model.sequences !== undefined,
    stream = new Stream(seed, 'generate'),
    before = new Set(prompt);
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
        const left = sequence.length - cached,
          size = rows ? Math.min(CHUNK, left) : left >= CHUNK ? CHUNK : 1;
        logits = await run(sequence.slice(cached, cached + size), cached);
        cached += size;
      }
      const own = repetitionPenalty === 1 ? logits : logits.slice(),
        token = drawToken(own, request, before, stream.uniform(0, made));
      sequence.push(token);
      before.add(token);
      yield { token, logits };
    }
  } finally {
    caches.close();
  }

  /** Logits [vocab] after the last token of `part`. Chunks of any size run one program: their size is a count. */
  async function run(part: readonly number[], position: number): Promise<Float64Array<ArrayBuffer>> {
    const { length } = part,
      counted = rows && length > 1;
    const out = await session.runGraph(
      counted ? `generate up to ${CHUNK}` : `generate ${length}`,
      (t) => {
        const cached = { position: t.scalar('position', 'int32') };
        if (!counted) {
          const all = call(model, t.input('input', 'tokens', { dtype: 'int32', shape: [1, length] }), cached);
          t.output('logits', slice(all, 1, length - 1, length));
          return;
        }
        const count = t.scalar('count', 'int32'),
          dim: Bounded = { kind: 'bounded', bound: CHUNK, count: count.id },
          all = call(model, t.input('input', 'tokens', { dtype: 'int32', shape: [dim] }), cached); // [rows, vocab]
        t.output('logits', gather(all, reshape(sub(count, scalar(count, 1)), [1])));
      },
      { tokens: Int32Array.from(part), position: Int32Array.of(position), count: Int32Array.of(length) },
      caches,
    );
    return new Float64Array(out['logits'].data);
  }
}

/** Whether a model can use a cache of earlier tokens. */
export function isCachedModel(model: object): model is CachedModel {
  return (
    'options' in model &&
    typeof model.options === 'object' &&
    model.options !== null &&
    'context' in model.options &&
    'vocab' in model.options
  );
}
