// Generated loads, on which policies are tried. In: the name of a workload, sizes, a seed; out: a Trace, the same for
// the same seed. Each token draws its k experts without replacement, with probabilities proportional to e^logit. A
// workload says how the logits change from step to step.
import { UserError } from '../../base/errors.ts';
import { checkOptions, type KeysOf } from '../../base/options.ts';
import { aList, aNumber, anything, aSize, aText, aWhole, either, oneOf } from '../../base/kinds.ts';
import { Stream } from '../../base/random.ts';
import { checkCapacity, type Capacity } from '../../nn/moe/capacity.ts';
import { OVERFLOWS, type Overflow } from '../../nn/moe/routing.ts';
import { DISPATCHES, type Dispatch } from '../../nn/moe/strategies.ts';
import type { Trace } from './trace.ts';

export interface GenerateOptions {
  readonly experts: number;
  readonly k: number;
  readonly tokens: number;
  readonly steps: number;
  readonly seed: number;
  readonly capacity: Capacity;
  readonly overflow: Overflow;
  readonly dispatch: Dispatch;
}

const KEYS: KeysOf<Partial<GenerateOptions>> = {
  experts: aSize,
  k: aSize,
  tokens: aSize,
  steps: aWhole(0),
  seed: anything,
  capacity: either(aNumber, aText, aList),
  overflow: oneOf(...OVERFLOWS),
  dispatch: oneOf(...DISPATCHES),
};
export const DEFAULTS: GenerateOptions = {
  experts: 16,
  k: 2,
  tokens: 256,
  steps: 2048,
  seed: 1,
  capacity: 2,
  overflow: 'drop',
  dispatch: 'padded',
};

const MOST_DRAWS = 1e10; // random numbers; drawing these takes several minutes

interface At {
  readonly step: number;
  readonly share: number;
  readonly experts: number;
}

/**
 * A pattern of loads. logit: of the expert at `place` in a random order of the experts, at a step; `share` is the part
 * of the run that is over. tokens: the number of tokens of a step; `pick` is a random number from 0 to 1.
 */
interface Workload {
  readonly about: string;
  logit(place: number, at: At): number;
  tokens?(tokens: number, pick: number): number;
}

const zipf = (place: number): number => -Math.log(place + 1);
const move = (place: number, by: number, experts: number): number => (place + by) % experts;
/** The first quarter of the experts. */
const first = (place: number, experts: number): boolean => place < Math.max(1, experts >> 2);

/** Generated workloads by name, each with a description. */
export const WORKLOADS: Readonly<Record<string, Workload>> = {
  balanced: { about: 'every expert has the same chance', logit: () => 0 },
  hot: {
    about: 'a quarter of the experts is chosen e^1.5 times as often as the others',
    logit: (p, { experts }) => (first(p, experts) ? 1.5 : 0),
  },
  spread: { about: 'chances fall as 1 / rank', logit: zipf },
  idle: {
    about: 'a quarter of the experts is never chosen',
    logit: (p, { experts }) => (first(p, experts) ? -Infinity : 0),
  },
  rotating: {
    about: 'a hot quarter that moves on every 256 steps',
    logit: (p, { step, experts }) => (first(move(p, Math.floor(step / 256) * 5, experts), experts) ? 1.5 : 0),
  },
  burst: {
    about: '1 / rank; every 128th step, for 8 steps, one expert more is as hot as the first',
    logit: (p, { step }) => (p === 8 && step % 128 >= 120 ? 0 : zipf(p)),
  },
  drift: {
    about: '1 / rank, slowly over to the opposite order',
    logit: (p, { share, experts }) => (1 - share) * zipf(p) + share * zipf(experts - 1 - p),
  },
  sizes: {
    about: '1 / rank in batches of a half, three quarters, or all of the tokens',
    logit: zipf,
    tokens: (n, pick) => Math.ceil((n * (2 + Math.floor(3 * pick))) / 4),
  },
};

/** Loads of the workload of this name, the same for the same seed. Throws UserError for an unknown name. */
export function generate(name: string, options: Partial<GenerateOptions> = {}): Trace {
  checkOptions('generate', options, KEYS);
  const workload = Object.hasOwn(WORKLOADS, name) ? WORKLOADS[name] : undefined;
  if (!workload) throw new UserError(`no workload named "${name}"`, `one of ${Object.keys(WORKLOADS).join(', ')}`);
  const { experts, k, tokens, steps, seed, capacity, overflow, dispatch } = { ...DEFAULTS, ...options };
  checkCapacity(capacity, experts);
  const open = Array.from({ length: experts }, (_, p) => workload.logit(p, { step: 0, share: 0, experts })).filter(
    Number.isFinite,
  ).length;
  if (k > open)
    throw new UserError(`a token cannot go to ${k} experts of ${open}`, 'fewer experts a token, or more experts');
  const draws = steps * tokens * experts;
  if (draws > MOST_DRAWS) {
    throw new UserError(
      `${steps} steps of ${tokens} tokens over ${experts} experts take ${draws} draws, more than ${MOST_DRAWS}`,
      'fewer steps, tokens or experts',
    );
  }
  const order = new Stream(seed, 'places').permutation(0, experts),
    noise = new Stream(seed, `draws ${name}`),
    sizes = new Stream(seed, 'sizes');
  const loads = Array.from({ length: steps }, (_, step) => {
    const logits = Array.from({ length: experts }, (_, e) =>
      workload.logit(order[e], { step, share: step / steps, experts }),
    );
    return [
      drawn(logits, workload.tokens?.(tokens, sizes.uniform(step, 0)) ?? tokens, k, (i) => noise.uniform(step, i)),
    ];
  });
  return { layers: [{ path: 'moe', experts, k, capacity, overflow, dispatch, dModel: 64, hidden: 256 }], loads };
}

/**
 * The number of tokens that chose each expert. The k largest values of logit + Gumbel noise are a draw without
 * replacement.
 */
function drawn(logits: readonly number[], tokens: number, k: number, uniform: (i: number) => number): number[] {
  const experts = logits.length,
    load = new Array<number>(experts).fill(0);
  for (let t = 0; t < tokens; t++) {
    const scores = logits.map((l, e) => l - Math.log(-Math.log(uniform(t * experts + e) + 2 ** -26)));
    for (let j = 0; j < k; j++) {
      let best = 0;
      for (let e = 1; e < experts; e++) if (scores[e] > scores[best]) best = e;
      load[best]++;
      scores[best] = -Infinity;
    }
  }
  return load;
}
