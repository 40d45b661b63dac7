// What a router is: from tokens to choices of experts. In: x [tokens, dModel], how many experts a token gets; out: a
// Choice. Routers compute in the dtype of their weights, float32 or float64.
import { boundOf } from '../../base/shape.ts';
import { UserError } from '../../base/errors.ts';
import { fixedCopy } from '../../base/fixed.ts';
import { checkOptions, type KeysOf } from '../../base/options.ts';
import { aFlag, aNumber, aSize, needed, oneOf } from '../../base/kinds.ts';
import { scalar, type Tensor } from '../../graph/tensor.ts';
import { add } from '../../graph/ops/elementwise/add.ts';
import { concat } from '../../graph/ops/shape/concat.ts';
import { cast } from '../../graph/ops/elementwise/cast.ts';
import { div } from '../../graph/ops/elementwise/div.ts';
import { expand } from '../../graph/ops/shape/expand.ts';
import { matmul } from '../../graph/ops/matmul/matmul.ts';
import { max } from '../../graph/ops/reduce/max.ts';
import { less } from '../../graph/ops/elementwise/less.ts';
import { mul } from '../../graph/ops/elementwise/mul.ts';
import { oneHot } from '../../graph/ops/create/oneHot.ts';
import { reshape } from '../../graph/ops/shape/reshape.ts';
import { slice } from '../../graph/ops/shape/slice.ts';
import { sum } from '../../graph/ops/reduce/sum.ts';
import { topK } from '../../graph/ops/reduce/topK.ts';
import { uniform } from '../../graph/ops/create/uniform.ts';
import { where } from '../../graph/ops/elementwise/where.ts';
import { Parameter } from '../../trace/parameter.ts';
import { traceOf, use } from '../../trace/trace.ts';
import type { OpenSlots } from './slots.ts';

/** The result of a router. */
export interface Choice {
  /** int32 [tokens, k]: different experts for each token. */
  readonly indices: Tensor;
  /** Float [tokens, k]: what each expert's output is multiplied by. */
  readonly weights: Tensor;
  /** Float [tokens, k]: which choices matter most, for priority 'probs'. */
  readonly scores: Tensor;
  /** Float [tokens, experts]: the distribution that balance losses make even; null: the router has none. */
  readonly probs: Tensor | null;
  /** Float [tokens, experts]; null: the router has none. */
  readonly logits: Tensor | null;
  /**
   * Float [experts]: a smooth estimate of each expert's load (Shazeer et al. 2017, equation 9); only of a router with
   * noise.
   */
  readonly load?: Tensor;
  /**
   * Whether experts choose tokens: then k is the number of experts, and the capacity says how many tokens each takes.
   */
  readonly expertsChoose?: boolean;
  /** With one expert a token: float32 [tokens], the weight that a second choice would have. For statistics. */
  readonly second?: () => Tensor;
}

export interface RouteCall {
  readonly k: number;
  /**
   * `topK` when the layer was built; default k. Defaults that depend on the number of experts a token use it, so that
   * they stay when `topK` changes.
   */
  readonly built?: number;
  /** int32 [tokens]: the tokens' ids, if the model gives them; for HashRouter. */
  readonly ids?: Tensor | undefined;
  /**
   * To be called in place of topK: scores [tokens, experts] -> int32 [tokens, k], of which some are remembered choices.
   * For routers with `remembers`.
   */
  readonly pick?: ((scores: Tensor) => Tensor) | undefined;
  /**
   * Given if some slots hold no expert, or copies of which a token gets at most one: `eligible` computes which slots a
   * token may choose. Only for routers with `expertAxes`.
   */
  readonly slots?: OpenSlots | null;
}

export interface Router {
  readonly experts: number;
  /** Whether experts choose tokens (Choice.expertsChoose). */
  readonly expertsChoose?: boolean;
  choose(x: Tensor, call: RouteCall): Choice;
  /** Called when the load, int32 [experts], is known. Routers with a state of their own update it here. */
  observe?(load: Tensor, slots: OpenSlots | null): void;
  /**
   * Names of the router's parameters that have a part for each expert, with the dimension of experts. A router that has
   * it must respect `slots`; with other routers experts cannot be pruned, merged or split.
   */
  readonly expertAxes?: Readonly<Record<string, number>> | undefined;
  /** Whether a token's choices depend on the token alone and `choose` calls `pick`, so that they can be remembered. */
  readonly remembers?: boolean;
}

export interface RouterOptions {
  readonly dModel: number;
  readonly experts: number;
  /**
   * Multiplies each input of the router by a random number in 1 - jitter .. 1 + jitter while training (Fedus et al.
   * 2022).
   */
  readonly jitter?: number;
  /**
   * Divides the k weights by their sum; default: whether the layer was built with `topK` above 1. It stays when `topK`
   * changes.
   */
  readonly normalise?: boolean;
}
/** Options of a router that computes the weights of its choices in its own way. */
export type PlainRouterOptions = Omit<RouterOptions, 'normalise'>;
export const PLAIN_KEYS: KeysOf<PlainRouterOptions> = {
  dModel: needed(aSize),
  experts: needed(aSize),
  jitter: aNumber,
};
export const ROUTER_KEYS: KeysOf<RouterOptions> = { ...PLAIN_KEYS, normalise: aFlag };

/** Routers with one vector for each expert: logits = x W. */
export abstract class LinearRouter implements Router {
  readonly weight: Parameter; // [dModel, experts]
  readonly experts: number;
  readonly #options: RouterOptions;
  readonly #normalise: boolean | undefined;

  /**
   * keys: the subclass's options, if it has others; normalise: the default of the option in a layer that is built with
   * topK above 1.
   */
  constructor(
    options: RouterOptions,
    keys: KeysOf<RouterOptions> | KeysOf<PlainRouterOptions> = ROUTER_KEYS,
    normalise = true,
  ) {
    checkOptions(this.constructor.name, options, keys as KeysOf<RouterOptions>);
    this.#options = fixedCopy(options);
    const { dModel, experts, jitter = 0 } = options;
    if (!(jitter >= 0 && jitter < 1))
      throw new UserError(`router: jitter must be at least 0 and below 1, got ${jitter}`);
    this.weight = new Parameter([dModel, experts], { kind: 'normal', std: 1 / Math.sqrt(dModel) }, { role: 'router' });
    this.experts = experts;
    this.#normalise = options.normalise ?? (normalise ? undefined : false);
  }

  abstract choose(x: Tensor, call: RouteCall): Choice;

  /** The router's input: x in the dtype of the router's weights, with jitter while training. */
  protected seen(x: Tensor): Tensor {
    const trace = traceOf(x),
      { jitter = 0 } = this.#options,
      wide = cast(x, this.weight.dtype);
    if (!trace.training || jitter === 0) return wide;
    return mul(wide, add(mul(random(x, this, 'jitter'), 2 * jitter), 1 - jitter));
  }

  /** int32 [tokens, k]: the experts with the k highest scores, or remembered choices. */
  protected best(scores: Tensor, { k, pick }: RouteCall): Tensor {
    return pick ? pick(scores) : topK(scores, k).indices;
  }

  protected logits(x: Tensor): Tensor {
    return matmul(this.seen(x), use(x, this.weight));
  }

  /** The gate's weights [tokens, k]: values, divided by their sum if the layer normalises. */
  protected weights(values: Tensor, { k, built = k }: Pick<RouteCall, 'k' | 'built'>): Tensor {
    const normalise = this.#normalise ?? built > 1;
    return normalise ? div(values, expand(sum(values, [1]), values, [1])) : values;
  }
}

/** The second column of [tokens, 2 or more]. */
export const secondOf = (weights: Tensor): Tensor => slice(weights, 1, 1, 2);

/** Random numbers in [0, 1) of the shape and dtype of `like`, of this step and module. */
export function random(like: Tensor, module: object, purpose: string): Tensor {
  const { seed, step, key, first } = traceOf(like).random(module, purpose, like);
  return cast(uniform(like, seed, step, { key }, first), like.dtype);
}

export interface GroupLimit {
  /** Experts lie in this many groups of neighbours (nodes). */
  readonly groups: number;
  /** A token chooses experts of at most this many groups. */
  readonly limit: number;
  /** Score of a group: that of its best expert (DeepSeek-V2), or the sum of its two best (DeepSeek-V3, the default). */
  readonly by?: 'max' | 'top2';
}
const GROUP_KEYS: KeysOf<GroupLimit> = { groups: needed(aNumber), limit: needed(aNumber), by: oneOf('max', 'top2') };

export function checkGroups(given: GroupLimit, experts: number): void {
  checkOptions('router: groups', given, GROUP_KEYS);
  const { groups, limit } = given;
  const whole = (n: number): boolean => Number.isInteger(n) && n >= 1;
  if (!whole(groups) || experts % groups !== 0 || !whole(limit) || limit > groups) {
    throw new UserError(
      `router: ${experts} experts in ${groups} groups, of which ${limit} may be chosen: these numbers do not fit`,
      'groups must divide the experts, and limit be from 1 to groups',
    );
  }
}

/** scores [tokens, experts] with those of all but the best groups at -infinity. */
export function limitGroups(scores: Tensor, { groups, limit, by = 'top2' }: GroupLimit, k: number): Tensor {
  const [tokens, experts] = scores.shape.map(boundOf),
    size = experts / groups;
  if (k > limit * size)
    throw new UserError(
      `router: ${k} experts a token do not lie in ${limit} groups of ${size}`,
      'raise limit or lower topK',
    );
  if (limit === groups) return scores;
  const inGroups = reshape(scores, [tokens, groups, size]);
  const best = by === 'max' || size === 1 ? max(inGroups, [2]) : bestTwo(scores, groups);
  const chosen = sum(oneHot(topK(best, limit).indices, groups), [1]); // [tokens, groups]
  const open = less(scalar(chosen, 0), reshape(chosen, [tokens, groups, 1]));
  return reshape(where(open, inGroups, scalar(scores, -Infinity)), [tokens, experts]);
}

/** scores [tokens, experts] -> [tokens, groups]: the sum of the two highest of each group. */
function bestTwo(scores: Tensor, groups: number): Tensor {
  const [tokens, experts] = scores.shape.map(boundOf),
    size = experts / groups,
    two = (x: Tensor): Tensor => sum(topK(x, 2).values, [1]);
  if (typeof scores.shape[0] === 'number')
    return reshape(two(reshape(scores, [tokens * groups, size])), [tokens, groups]);
  // A varying dimension cannot be merged with another.
  const each = Array.from({ length: groups }, (_, g) => two(slice(scores, 1, g * size, (g + 1) * size)));
  return concat(
    each.map((x) => reshape(x, [tokens, 1])),
    1,
  );
}
