// Draws a token from logits. Nothing is sorted but the few tokens of one bucket: tokens are counted by how far their
// logit lies below the largest, and all limits (top-k, top-p, min-p, the drawn number) are first found among buckets.
import { UserError } from '../base/errors.ts';

export interface Sampling {
  /** 0: the most probable token. */
  readonly temperature: number;
  /** How many of the most probable tokens may be drawn; Infinity: all. */
  readonly topK: number;
  /** The fewest of the most probable tokens that together have this probability may be drawn (Holtzman et al. 2020). */
  readonly topP: number;
  /** Tokens with less than this share of the largest probability may not be drawn (Nguyen et al. 2024). */
  readonly minP: number;
  /**
   * What the logits of tokens that were there before are divided by, or multiplied if they are below 0 (CTRL: Keskar et
   * al. 2019).
   */
  readonly repetitionPenalty: number;
}

/** A token and the logarithm of the model's probability for it, before temperature, penalty and limits. */
export interface Likely {
  readonly token: number;
  readonly logprob: number;
}

/**
 * Draws by `u` in [0, 1). `logits` [vocab] is changed. `before`: the tokens that `repetitionPenalty` concerns. Limits
 * are applied in the order penalty, temperature, top-k, top-p (of what top-k leaves), min-p. Equal logits count as
 * ordered by token.
 */
export function drawToken(
  logits: Float64Array,
  { temperature, topK, topP, minP, repetitionPenalty }: Sampling,
  before: ReadonlySet<number>,
  u: number,
): number {
  if (repetitionPenalty !== 1)
    for (const token of before) logits[token] *= logits[token] < 0 ? repetitionPenalty : 1 / repetitionPenalty;
  const largest = largestOf(logits);
  if (temperature === 0 || topK === 1) return logits.indexOf(largest);
  const buckets = new Buckets(logits, largest, temperature),
    afterK = topK === Infinity ? buckets.all() : buckets.first(topK),
    afterP = topP < 1 ? buckets.reaching(topP * afterK.mass) : afterK,
    afterM = minP > 0 ? buckets.atLeast(minP) : afterP;
  const kept = [afterK, afterP, afterM].reduce((a, b) => (b.count < a.count ? b : a));
  return buckets.token(Math.min(buckets.beyond(u * kept.mass).count, kept.count) - 1);
}

/** The largest logit. Throws UserError if one is NaN or +Infinity, or all are -Infinity. */
export function largestOf(logits: Float64Array): number {
  let largest = -Infinity,
    bad = -1;
  for (let i = 0; i < logits.length; i++) {
    const x = logits[i];
    if (x > largest) largest = x;
    else if (x !== x && bad < 0) bad = i;
  }
  if (largest === Infinity) bad = logits.indexOf(Infinity);
  if (bad >= 0 || largest === -Infinity)
    throw new UserError(
      `generate: the logits are not finite${bad >= 0 ? `: ${logits[bad]} for token ${bad}` : ''}`,
      'the parameters are probably not finite: load an earlier checkpoint',
    );
  return largest;
}

/** The logarithms of the probabilities of a token and of the `count` most probable ones. */
export function logprobsOf(
  logits: Float64Array,
  token: number,
  count: number,
): { readonly logprob: number; readonly top: readonly Likely[] } {
  const largest = largestOf(logits),
    buckets = new Buckets(logits, largest, 1),
    whole = largest + Math.log(buckets.all().mass);
  const top = Array.from({ length: Math.min(count, buckets.all().count) }, (_, i) => buckets.token(i));
  return { logprob: logits[token] - whole, top: top.map((t) => ({ token: t, logprob: logits[t] - whole })) };
}

/** The first `count` tokens in descending order, which together have `mass`, where the first token has 1. */
interface Prefix {
  readonly count: number;
  readonly mass: number;
}

const STEPS = 512, // buckets for a factor of e
  LAST = 40 * STEPS; // the bucket of all weights below e^-40
/** The largest weight of each bucket. */
const LARGEST = Float64Array.from({ length: LAST }, (_, bucket) => Math.exp(-bucket / STEPS));

/** Tokens by their weights exp((logit - largest) / temperature), in descending order. */
class Buckets {
  readonly #logits: Float64Array;
  readonly #largest: number;
  /** From differences of logits to buckets. */
  readonly #scale: number;
  readonly #counts = new Uint32Array(LAST + 1);
  readonly #masses = new Float64Array(LAST + 1);
  /** Tokens of the buckets that were looked into, in descending order. */
  readonly #members = new Map<number, Uint32Array>();

  constructor(logits: Float64Array, largest: number, temperature: number) {
    this.#logits = logits;
    this.#largest = largest;
    this.#scale = STEPS / temperature;
    const counts = this.#counts,
      masses = this.#masses,
      scale = this.#scale;
    for (let i = 0; i < logits.length; i++) {
      const below = (largest - logits[i]) * scale,
        bucket = bucketOf(below);
      if (below === Infinity) continue; // the token is excluded
      counts[bucket]++;
      masses[bucket] += within(bucket - below);
    }
    for (let bucket = 0; bucket < LAST; bucket++) masses[bucket] *= LARGEST[bucket];
  }

  all(): Prefix {
    return this.#before(LAST + 1);
  }

  /** The first `count` tokens. */
  first(count: number): Prefix {
    return this.#until((so) => so.count >= count);
  }

  /** The fewest tokens whose mass is at least `mass`; all if there are none. */
  reaching(mass: number): Prefix {
    return this.#until((so) => so.mass >= mass);
  }

  /** The fewest tokens whose mass is above `mass`; all if there are none. */
  beyond(mass: number): Prefix {
    return this.#until((so) => so.mass > mass);
  }

  /** The tokens whose weight is at least `weight`. */
  atLeast(weight: number): Prefix {
    const bucket = bucketOf(-Math.log(weight) * STEPS);
    let prefix = this.#before(bucket);
    for (const token of this.#tokensOf(bucket)) {
      if (weightOf(this.#below(token), bucket) < weight) break;
      prefix = this.#with(prefix, token, bucket);
    }
    return prefix;
  }

  /** The token at a place of the descending order. */
  token(place: number): number {
    let bucket = 0,
      before = 0;
    while (before + this.#counts[bucket] <= place) before += this.#counts[bucket++];
    return this.#tokensOf(bucket)[place - before];
  }

  /** How far a token lies below the most probable one, in buckets. */
  #below(token: number): number {
    return (this.#largest - this.#logits[token]) * this.#scale;
  }

  /** The fewest tokens that are enough: whole buckets, and of the last one some tokens. All if they are not enough. */
  #until(enough: (so: Prefix) => boolean): Prefix {
    let so: Prefix = { count: 0, mass: 0 };
    for (let bucket = 0; bucket <= LAST; bucket++) {
      const whole = { count: so.count + this.#counts[bucket], mass: so.mass + this.#masses[bucket] };
      if (enough(whole)) {
        for (const token of this.#tokensOf(bucket)) {
          so = this.#with(so, token, bucket);
          if (enough(so)) break;
        }
        return so;
      }
      so = whole;
    }
    return so;
  }

  /** All tokens of the buckets before one. */
  #before(bucket: number): Prefix {
    let count = 0,
      mass = 0;
    for (let b = 0; b < bucket; b++) {
      count += this.#counts[b];
      mass += this.#masses[b];
    }
    return { count, mass };
  }

  #with({ count, mass }: Prefix, token: number, bucket: number): Prefix {
    return { count: count + 1, mass: mass + weightOf(this.#below(token), bucket) };
  }

  #tokensOf(bucket: number): Uint32Array {
    let found = this.#members.get(bucket);
    if (!found) {
      const logits = this.#logits,
        // A little less than the smallest logit of the bucket: most tokens need no closer look.
        least = bucket === LAST ? -Infinity : this.#largest - (bucket + 1.01) / this.#scale;
      found = new Uint32Array(this.#counts[bucket]);
      for (let i = 0, n = 0; n < found.length; i++) {
        if (logits[i] < least) continue;
        const below = this.#below(i);
        if (below !== Infinity && bucketOf(below) === bucket) found[n++] = i;
      }
      // Those of a model that is not trained may all have one logit: then they are in order.
      if (found.some((token) => logits[token] !== logits[found![0]]))
        found.sort((a, b) => logits[b] - logits[a] || a - b);
      this.#members.set(bucket, found);
    }
    return found;
  }
}

const bucketOf = (below: number): number => (below < LAST ? below | 0 : LAST);

/** exp(-below / STEPS). */
const weightOf = (below: number, bucket: number): number =>
  bucket === LAST ? Math.exp(-below / STEPS) : LARGEST[bucket] * within(bucket - below);

/** exp(r / STEPS) for r from -1 to 0, with an error below 1e-12; of a weight below e^-40, 0. */
function within(r: number): number {
  const x = r * (1 / STEPS);
  return r < -1 ? 0 : 1 + x * (1 + x * (1 / 2 + x * (1 / 6)));
}
