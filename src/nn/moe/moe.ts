// The mixture-of-experts layer: a router chooses experts for each token, a strategy computes them, and the token gets
// the weighted sum.
import { cast } from '../../graph/ops/elementwise/cast.ts';
import { boundOf } from '../../base/shape.ts';
import { UserError } from '../../base/errors.ts';
import { checkOptions, shown, type KeysOf } from '../../base/options.ts';
import { aSize, aText, atLeast0, needed } from '../../base/kinds.ts';
import { scalar, type Tensor } from '../../graph/tensor.ts';
import { add } from '../../graph/ops/elementwise/add.ts';
import { div } from '../../graph/ops/elementwise/div.ts';
import { log } from '../../graph/ops/elementwise/log.ts';
import { maximum } from '../../graph/ops/elementwise/maximum.ts';
import { mul } from '../../graph/ops/elementwise/mul.ts';
import { neg } from '../../graph/ops/elementwise/neg.ts';
import { reshape } from '../../graph/ops/shape/reshape.ts';
import { topK } from '../../graph/ops/reduce/topK.ts';
import { sum } from '../../graph/ops/reduce/sum.ts';
import { call, traceOf, within, type Trace } from '../../trace/trace.ts';
import type { Keeps, Kept, KnobRules, Resize, Transfer } from '../../trace/knobs.ts';
import { nameParameters, type Module } from '../../trace/module.ts';
import type { Parameter } from '../../trace/parameter.ts';
import { noticeWrites } from '../../trace/user-values.ts';
import { meanOfRows } from '../rows.ts';
import type { Capacity } from './capacity.ts';
import { keeping } from './chunks.ts';
import { taking } from './masked.ts';
import { ExpertBank, type Activation } from './experts.ts';
import { lossOf, LOSSES, type LossName } from './losses.ts';
import { routed, type Overflow, type Priority, type Routing } from './routing.ts';
import { checkSettings, type MoEOptions } from './options.ts';
import { secondOf, type Choice, type Router } from './router.ts';
import { TopKRouter } from './routers.ts';
import { among, checkedKnob, initialKnobs, KNOB_NAMES, MOE_KNOBS, type MoEKnobs } from './knobs.ts';
import { resizeMoE } from './resize.ts';
import { ChoiceMemory, type RoutingMode } from './memory.ts';
import { activeOf, freshSlots, openSlots, readSlots, type Families, type OpenSlots, type SlotsValue } from './slots.ts';
import { routerParts, transferMoE } from './transfer.ts';
import { runExperts, type Dispatch, type Experts } from './strategies.ts';

export type { MoEOptions };

/** Most experts of a layer, and of all layers of a TransformerLM: the host keeps some data for each expert. */
export const MOST_EXPERTS = 2 ** 20;

/**
 * [..., dModel] -> [..., width]. Statistics: `load` int32 [experts], choices of each expert before any is dropped;
 * `dropped` or `spilled` int32 [experts], those beyond its capacity; where rules look: `gateEntropy` (nats) and
 * `secondGateWeight`, means over tokens; while choices are remembered `agreement` int32 [2]: remembered choices that
 * are still among the live ones, of how many compared. topK, capacity, dispatch, overflow, priority, frozen,
 * expertRows, recompute, chunks, routing, remember, audit and gateFrozen may be changed; programs that are traced
 * afterwards follow. Which experts there are (`slots`) is changed by rules alone, since values go along; a free slot
 * has no rows, no gradient and a load of 0, and means over experts (losses, the even share) leave it out.
 */
export class MoE {
  /** By knob: whether a change of it leaves every bit of the results as it is. */
  static readonly knobs: KnobRules = MOE_KNOBS;
  /** Applies another capacity to a graph that exists, without tracing the layer again. */
  static readonly resize: Resize = resizeMoE;
  /** Which parameter values move when an expert is merged or split. */
  static readonly transfer: Transfer = (moe, from, to) => transferMoE(moe as MoE, from, to);
  /** Parameters that training does not change: of frozen experts, of a frozen router, of free slots. */
  static readonly keeps: Keeps = (moe) => (moe as MoE).#kept();
  static {
    // `frozen` has an accessor of its own below: its setter takes true and false, too, which `declare` cannot express.
    for (const knob of KNOB_NAMES.filter((name) => name !== 'frozen'))
      Object.defineProperty(MoE.prototype, knob, {
        configurable: true,
        get(this: MoE) {
          return this.#knobs[knob];
        },
        set(this: MoE, value: never) {
          this.#set(knob, value);
        },
      });
    noticeWrites(MoE);
  }
  readonly router: Router;
  readonly experts: Experts;
  readonly shared: Module<Tensor, Tensor> | SharedExpert | null;
  readonly #losses: readonly (readonly [LossName, number])[];
  readonly #count: number;
  readonly #built: number;
  readonly #knobs: MoEKnobs;
  #families: Families;
  // The properties of the knobs: a static block above defines them, by the rows of KNOBS, with setters that check.
  /** How many experts a token gets. */
  declare topK: number;
  /** 'dropless', a factor on the even share of rows, or a factor for each expert. */
  declare capacity: Capacity;
  /** What happens to choices beyond the capacity: 'drop', or 'spill' (computed all the same). */
  declare overflow: Overflow;
  /** Which choices come first where there is not enough capacity for all. */
  declare priority: Priority;
  /** How rows are brought to their experts and back. */
  declare dispatch: Dispatch;
  /** Rows that an expert usually gets, a power of 2, for which kernels are made; 0: not known. */
  declare expertRows: number;
  /** 'live': choices are not remembered; 'watched': those of samples with ids are; 'cached': they are also used. */
  declare routing: RoutingMode;
  /** How many samples are remembered at most. */
  declare remember: number;
  /** While cached, the router is asked again for one sample in this many. */
  declare audit: number;
  /** Whether the router's parameters are excluded from training. */
  declare gateFrozen: boolean;
  /** Whether hidden values of experts are computed again for gradients, and not stored. */
  declare recompute: boolean;
  /** Parts in which a bank goes through its rows. */
  declare chunks: number;
  /**
   * What each slot held before the last change ('on', 'off' for free, 'like 3' for a copy of slot 3's expert), then the
   * number of the last change, then what it did ('split 3 into 5'). Only rules change it.
   */
  declare slots: SlotsValue;

  constructor(options: MoEOptions) {
    checkSettings(options);
    const {
      dModel,
      experts,
      router,
      shared,
      hidden,
      activation,
      normalise,
      balance = router ? 0 : 0.01,
      zLoss = router ? 0 : 0.001,
    } = options;
    this.#count = typeof experts === 'number' ? experts : experts.length;
    if (!Number.isInteger(this.#count) || this.#count < 1)
      throw new UserError(
        `MoE: experts must be a whole number of at least 1, or a list of modules, got ${this.#count}`,
      );
    if (this.#count > MOST_EXPERTS) throw new UserError(`MoE: at most ${MOST_EXPERTS} experts, got ${this.#count}`);
    this.#knobs = initialKnobs(this.#count);
    this.#families = readSlots(this.#knobs.slots).families;
    this.topK = this.#built = options.topK;
    if (router && router.experts !== this.#count)
      throw new UserError(`MoE: there are ${this.#count} experts, the router knows ${router.experts}`);
    this.router =
      router ?? new TopKRouter({ dModel, experts: this.#count, ...(normalise !== undefined && { normalise }) });
    if (typeof experts !== 'number') this.experts = experts;
    else {
      if (hidden === undefined)
        throw new UserError('MoE: a bank of experts needs `hidden`, the width of their hidden layer');
      const { bias, outStd } = options;
      this.experts = new ExpertBank({
        experts,
        dModel,
        hidden,
        ...(activation && { activation }),
        ...(bias !== undefined && { bias }),
        ...(outStd !== undefined && { outStd }),
      });
    }
    this.shared =
      typeof shared === 'number'
        ? new SharedExpert({ dModel, hidden: shared, ...(activation && { activation }) })
        : (shared ?? null);
    const coefficients: Partial<Record<LossName, number>> = options.losses ?? { balance, z: zLoss };
    for (const [name, coefficient] of Object.entries<unknown>(coefficients)) {
      among('loss', name, LOSSES);
      if (coefficient !== undefined && atLeast0(coefficient) !== null)
        throw new UserError(
          `MoE: the coefficient of the loss ${name} must be a number of at least 0, got ${shown(coefficient)}`,
        );
    }
    this.#losses = LOSSES.flatMap((name) => (coefficients[name] ? [[name, coefficients[name]] as const] : []));
    const given: Partial<Record<keyof MoEKnobs, unknown>> = options;
    for (const knob of KNOB_NAMES) {
      const value = given[knob];
      if (value !== undefined) Object.assign(this, { [knob]: value });
    }
    const { active = this.#count } = options;
    if (!Number.isInteger(active) || active < 1 || active > this.#count)
      throw new UserError(`MoE: active must be from 1 to the number of experts (${this.#count}), got ${active}`);
    if (active < this.#count) this.slots = freshSlots(this.#count, active);
  }

  /** Which experts' parameters are excluded from training. */
  get frozen(): readonly boolean[] {
    return this.#knobs.frozen;
  }
  set frozen(frozen: boolean | readonly boolean[]) {
    this.#set('frozen', frozen as readonly boolean[]);
  }

  #set<K extends keyof MoEKnobs>(knob: K, value: MoEKnobs[K]): void {
    const { router, experts } = this;
    this.#knobs[knob] = checkedKnob(knob, value, {
      count: this.#count,
      router,
      experts,
      topK: this.#knobs.topK,
      families: this.#families,
    });
    if (knob === 'slots') this.#families = readSlots(this.#knobs.slots).families;
  }

  #kept(): Kept[] {
    const { frozen, gateFrozen } = this.#knobs,
      kept: Kept[] = [];
    if (!gateFrozen && !frozen.includes(true) && !this.#families.includes(null)) return kept; // asked at every step
    const free = this.#families.map((family) => family === null),
      list = frozen.map((f, e) => f || free[e]);
    const keep = (parameters: Iterable<Parameter>, parts: readonly boolean[], axis: number): void => {
      if (parts.includes(true))
        for (const parameter of parameters) kept.push({ parameter, axis, parts: parts.every((f) => f) || parts });
    };
    const of = (module: object): Iterable<Parameter> => nameParameters(module).parameters.values();
    if (this.experts instanceof ExpertBank) keep(of(this.experts), list, 0);
    else
      this.experts.forEach((expert, e) => {
        keep(of(expert), [list[e]], 0);
      });
    if (gateFrozen) keep(of(this.router), [true], 0);
    for (const { parameter, axis } of routerParts(this.router)) keep([parameter], free, axis);
    return kept;
  }

  /** Which slots hold an expert. */
  get active(): readonly boolean[] {
    return activeOf(this.#families);
  }

  /**
   * ids int32 [...]: the tokens' ids, for a router that goes by them. mask bool [...]: which tokens take part. Others
   * get zeros, take no capacity, and count in no loss and no statistic: results are those of a batch without them.
   */
  forward(x: Tensor, ids?: Tensor, mask?: Tensor): Tensor {
    return within(x, this, () => {
      const shape = x.shape.map(boundOf),
        lead = shape.slice(0, -1),
        count = lead.reduce((n, d) => n * d, 1),
        tokens = reshape(x, [count, shape[shape.length - 1]]), // [tokens, dModel]
        own = ids && reshape(ids, [count]),
        part = mask && taking(mask, x),
        y = part ? part.put(this.#forward(part.take(tokens), own && part.take(own))) : this.#forward(tokens, own);
      return reshape(y, [...lead, boundOf(y.shape[1])]);
    });
  }

  /** x [tokens, dModel], ids [tokens] -> [tokens, width]. */
  #forward(tokens: Tensor, ids: Tensor | undefined): Tensor {
    const slots = openSlots(this.#families),
      memory = ChoiceMemory.of(this, tokens, {
        routing: this.#knobs.routing,
        experts: this.#count,
        k: this.#knobs.topK,
        remember: this.#knobs.remember,
        audit: this.#knobs.audit,
        closed: slots !== null,
      });
    const choice = within(tokens, this.router, () =>
      this.router.choose(tokens, {
        k: this.#knobs.topK,
        built: this.#built,
        ids,
        slots,
        pick: memory ? (scores) => memory.pick(scores) : undefined,
      }),
    );
    memory?.finish();
    const routing = this.#route(choice, memory),
      { indices } = choice,
      weights = cast(choice.weights, tokens.dtype);
    // [tokens, width]
    const combined = runExperts(this.#knobs.dispatch, this.experts, tokens, routing, indices, weights, {
      recompute: this.#knobs.recompute,
      chunks: this.#knobs.chunks,
    });
    this.#report(tokens, choice, routing, slots);
    this.router.observe?.(routing.load, slots);
    const { shared } = this,
      own = shared && keeping(tokens, this, () => call(shared, tokens));
    return own ? add(combined, own) : combined;
  }

  #route({ indices, scores, expertsChoose }: Choice, memory: ChoiceMemory | null): Routing {
    const experts = this.#count,
      padded = this.#knobs.dispatch === 'padded',
      expertRows = this.#knobs.expertRows,
      tiled = this.experts instanceof ExpertBank && (padded || this.#knobs.dispatch === 'ragged');
    if (expertsChoose === true && this.router.expertsChoose !== true)
      throw new UserError(
        'MoE: the router gives choices of experts that choose tokens, and does not say so of itself',
        'readonly expertsChoose = true, in the router',
      );
    if (!expertsChoose)
      return routed(indices, {
        experts,
        padded,
        tiled,
        expertRows,
        capacity: this.#knobs.capacity,
        overflow: this.#knobs.overflow,
        priority: this.#knobs.priority,
        scores,
        active: this.active,
        sorted: memory?.sorted(indices) ?? null,
      });
    // Every token chooses every expert, and an expert takes its best: on average topK experts a token.
    const share = this.#knobs.topK / experts,
      factor = this.#knobs.capacity === 'dropless' ? 1 : this.#knobs.capacity;
    return routed(indices, {
      experts,
      padded,
      expertRows,
      priority: 'probs',
      scores,
      capacity: typeof factor === 'number' ? factor * share : factor.map((f) => f * share),
    });
  }

  #report(x: Tensor, choice: Choice, { load, overflowCounts }: Routing, slots: OpenSlots | null): void {
    const trace = traceOf(x);
    if (!trace.training && !trace.observed) return;
    trace.addStat(this, 'load', load);
    if (trace.observed) {
      if (choice.probs)
        trace.addStat(
          this,
          'gateEntropy',
          neg(meanOfRows(sum(mul(choice.probs, log(maximum(choice.probs, scalar(choice.probs, 1e-30)))), [1]))),
        );
      // where experts choose, no choice of a token is its second
      if (!choice.expertsChoose) this.#reportSecond(trace, choice);
    }
    if (overflowCounts && !choice.expertsChoose)
      trace.addStat(this, this.#knobs.overflow === 'spill' ? 'spilled' : 'dropped', overflowCounts);
    for (const [name, coefficient] of this.#losses)
      trace.addLoss(this, name, lossOf(name, choice, load, slots), coefficient);
  }

  #reportSecond(trace: Trace, { weights, probs, second }: Choice): void {
    if (this.#knobs.topK > 1) trace.addStat(this, 'secondGateWeight', meanOfRows(secondOf(weights)));
    else if (second && this.#count > 1) trace.addStat(this, 'secondGateWeight', meanOfRows(second()));
    else if (probs && this.#count > 1) {
      const { values } = topK(probs, 2); // what a second choice would weigh beside the first
      trace.addStat(
        this,
        'secondGateWeight',
        meanOfRows(div(secondOf(values), maximum(sum(values, [1]), scalar(values, 1e-30)))),
      );
    }
  }
}

export interface SharedExpertOptions {
  readonly dModel: number;
  readonly hidden: number;
  readonly activation?: Activation;
}
const SHARED_KEYS: KeysOf<SharedExpertOptions> = { dModel: needed(aSize), hidden: needed(aSize), activation: aText };

/** A feed-forward network that every token goes through. */
export class SharedExpert {
  readonly bank: ExpertBank;
  constructor(options: SharedExpertOptions) {
    checkOptions('SharedExpert', options, SHARED_KEYS);
    this.bank = new ExpertBank({ ...options, experts: 1 });
  }

  /** [tokens, dModel] -> [tokens, dModel]. */
  forward(x: Tensor): Tensor {
    const [tokens, width] = x.shape.map(boundOf);
    if (typeof x.shape[0] !== 'number') return this.bank.one(x, 0);
    return reshape(this.bank.batched(reshape(x, [1, tokens, width])), [tokens, width]);
  }
}
