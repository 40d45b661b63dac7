// How probable a model finds continuations of a prompt. In: tokens; out: log-likelihoods. Tokens go through the cache
// that generation uses: the prompt is computed once, and each continuation from there.
import { UserError } from '../base/errors.ts';
import type { Bounded } from '../base/shape.ts';
import { crossEntropy } from '../graph/ops/reduce/crossEntropy.ts';
import type { Caches } from '../run/executor.ts';
import { call } from '../trace/trace.ts';
import { isCachedModel, type CachedModel } from './generate.ts';
import type { Session } from './session.ts';

const ROWS = 64, // the most tokens that are computed in one run: their number is a count
  FIXED = 16; // the same for a model that takes no rows; fewer are computed one by one

/**
 * The log-likelihood, in nats, of each continuation after a prompt: the sum over its tokens of the logarithm of
 * softmax(logits), given the prompt and the tokens of the continuation before. prompt: at least one token;
 * continuations: each at least one token. Of prompt and continuation together, the last `context` + 1 tokens are read,
 * of which the last one is only predicted. Nothing depends on the other continuations. Each token's value has the
 * precision of the session's logits, and is at least float32; sums are made in float64. Rejects with a UserError for
 * tokens that the model does not know, for a continuation that is longer than the context, for a model without a cache,
 * and where logits are not finite. MoE layers with `overflow: 'drop'` drop choices among the tokens of one run: up to
 * 64 tokens of the prompt, or of its last token and a continuation.
 */
export async function logLikelihoods(
  session: Session,
  prompt: ArrayLike<number>,
  continuations: readonly ArrayLike<number>[],
): Promise<number[]> {
  const { model } = session;
  if (!isCachedModel(model)) throw new UserError('logLikelihoods needs a model with a cache, such as nn.TransformerLM');
  const { context, vocab } = model.options,
    before = Array.from(prompt),
    all = continuations.map((tokens) => Array.from(tokens));
  check('the prompt', before, vocab);
  all.forEach((tokens, i) => {
    check(`continuation ${i}`, tokens, vocab);
    if (tokens.length > context)
      throw new UserError(
        `logLikelihoods: continuation ${i} has ${tokens.length} tokens, and the context of the model is ${context}`,
      );
  });
  const caches = session.openCaches(),
    found: number[] = [];
  let cachedFrom = -1; // from where on the prompt is in the cache
  try {
    for (const tokens of all) {
      const from = Math.max(0, before.length + tokens.length - (context + 1)),
        own = before.slice(from, -1);
      if (from !== cachedFrom) await lossesOf(session, model, caches, { tokens: own, targets: own, position: 0 });
      cachedFrom = from;
      const losses = await lossesOf(session, model, caches, {
        tokens: [...before.slice(-1), ...tokens.slice(0, -1)],
        targets: tokens,
        position: own.length,
      });
      const sum = losses.reduce((a, b) => a + b, 0);
      if (Number.isNaN(sum))
        throw new UserError(
          'logLikelihoods: the logits are not finite',
          'the parameters are probably not finite: load an earlier checkpoint',
        );
      found.push(-sum);
    }
  } finally {
    caches.close();
  }
  return found;
}

function check(what: string, tokens: readonly number[], vocab: number): void {
  if (tokens.length === 0) throw new UserError(`logLikelihoods: ${what} is empty`, 'give one token at least');
  const bad = tokens.findIndex((t) => !Number.isInteger(t) || t < 0 || t >= vocab);
  if (bad >= 0)
    throw new UserError(
      `logLikelihoods: ${what} holds token ${String(tokens[bad])} (at ${bad}), the model knows 0..${vocab - 1}`,
    );
}

interface Piece {
  readonly tokens: readonly number[];
  /** What each token should be followed by. */
  readonly targets: readonly number[];
  /** The place of the first token in the sequence. */
  readonly position: number;
}

/** -log softmax(logits)[target] after each token. Writes the keys and values of the tokens to the cache. */
async function lossesOf(session: Session, model: CachedModel, caches: Caches, piece: Piece): Promise<number[]> {
  const { tokens, targets, position } = piece,
    rows = model.sequences !== undefined,
    losses: number[] = [];
  for (let at = 0; at < tokens.length;) {
    const left = tokens.length - at,
      size = rows ? Math.min(ROWS, left) : left >= FIXED ? FIXED : 1,
      counted = rows && size > 1;
    const { loss } = await session.runGraph(
      counted ? `losses up to ${ROWS}` : `losses ${size}`,
      (t) => {
        const cached = { position: t.scalar('position', 'int32') },
          shape = counted
            ? [{ kind: 'bounded', bound: ROWS, count: t.scalar('count', 'int32').id } satisfies Bounded]
            : [1, size];
        const logits = call(model, t.input('input', 'tokens', { dtype: 'int32', shape }), cached);
        t.output('loss', crossEntropy(logits, t.input('input', 'targets', { dtype: 'int32', shape })));
      },
      {
        tokens: Int32Array.from(tokens.slice(at, at + size)),
        targets: Int32Array.from(targets.slice(at, at + size)),
        position: Int32Array.of(position + at),
        ...(counted && { count: Int32Array.of(size) }),
      },
      caches,
    );
    losses.push(...Array.from(loss.data).slice(0, size));
    at += size;
  }
  return losses;
}
