// Routers in which tokens do not choose experts by their scores: experts choose tokens, or a hash decides.
import { UserError } from '../../base/errors.ts';
import { fixedCopy } from '../../base/fixed.ts';
import { checkOptions, type KeysOf } from '../../base/options.ts';
import { anything, aSize, needed } from '../../base/kinds.ts';
import { checkSeed, Stream } from '../../base/random.ts';
import { boundOf } from '../../base/shape.ts';
import { full, type Tensor } from '../../graph/tensor.ts';
import { fullRows, rowNumbers } from '../../graph/ops/create/rows.ts';
import { iota } from '../../graph/ops/create/iota.ts';
import { gather } from '../../graph/ops/shape/gather.ts';
import { softmax } from '../../graph/ops/reduce/softmax.ts';
import { traceOf } from '../../trace/trace.ts';
import {
  LinearRouter,
  PLAIN_KEYS,
  type Choice,
  type PlainRouterOptions,
  type RouteCall,
  type Router,
} from './router.ts';

/**
 * Expert choice (Zhou et al. 2022): each expert takes the tokens with the highest probability of it, as many as its
 * capacity, so that load is even by construction and a token may get any number of experts. topK is how many a token
 * gets on average. Choices look at all tokens of the batch, later ones too.
 */
export class ExpertChoiceRouter extends LinearRouter {
  readonly expertsChoose = true;
  constructor(options: PlainRouterOptions) {
    super(options, PLAIN_KEYS);
  }

  choose(x: Tensor): Choice {
    const logits = this.logits(x),
      probs = softmax(logits),
      [tokens] = x.shape;
    const all =
      typeof tokens === 'number'
        ? traceOf(x).constant(
            { dtype: 'int32', shape: [tokens, this.experts] },
            Int32Array.from({ length: tokens * this.experts }, (_, i) => i % this.experts),
          )
        : iota(logits, 1);
    return { indices: all, weights: probs, scores: probs, probs, logits, expertsChoose: true };
  }
}

export interface HashRouterOptions {
  readonly experts: number;
  /**
   * With it, experts depend on the tokens' ids 0..vocab-1, which the model must give; without it, on a token's position
   * in the batch. If a batch is split into parts (`accumulate`, `split`), this is the position in the part, so that
   * choices and results differ from those of the whole batch.
   */
  readonly vocab?: number;
  readonly seed?: number;
}
const HASH_KEYS: KeysOf<HashRouterOptions> = { experts: needed(aSize), vocab: aSize, seed: anything };

/**
 * A fixed random table says which experts a token gets (Roller et al. 2021), each with weight 1 / k. Nothing is learnt.
 */
export class HashRouter implements Router {
  readonly experts: number;
  readonly #options: HashRouterOptions;
  constructor(options: HashRouterOptions) {
    checkOptions('HashRouter', options, HASH_KEYS);
    const { seed = 0 } = options;
    checkSeed('hash router', seed);
    this.experts = options.experts;
    this.#options = fixedCopy(options);
  }

  choose(x: Tensor, { k, ids }: RouteCall): Choice {
    const { vocab, seed = 0 } = this.#options,
      trace = traceOf(x),
      tokens = boundOf(x.shape[0]);
    if (vocab !== undefined && !ids)
      throw new UserError(
        'hash router: it goes by token ids, and this model gives none',
        'call moe.forward(x, ids), or leave out vocab',
      );
    const table = (rows: number): Tensor =>
      trace.constant({ dtype: 'int32', shape: [rows, k] }, this.#table(rows, k, seed));
    const fixed = typeof x.shape[0] === 'number',
      indices =
        vocab !== undefined && ids
          ? gather(table(vocab), ids)
          : fixed
            ? table(tokens)
            : gather(table(tokens), rowNumbers(x));
    const weights = fixed ? full(x, [tokens, k], 1 / k) : fullRows(x, k, 1 / k);
    return { indices, weights, scores: weights, probs: null, logits: null };
  }

  /** k different experts for each row. */
  #table(rows: number, k: number, seed: number): Int32Array {
    const stream = new Stream(seed, 'hash'),
      out = new Int32Array(rows * k);
    for (let r = 0; r < rows; r++) {
      const order = Array.from({ length: this.experts }, (_, e) => e);
      for (let j = 0; j < k; j++) {
        const pick = j + Math.floor(stream.uniform(j, r) * (this.experts - j));
        [order[j], order[pick]] = [order[pick], order[j]];
        out[r * k + j] = order[j];
      }
    }
    return out;
  }
}
