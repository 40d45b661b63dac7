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
import { mean, sum } from '../../graph/ops/reduce/sum.ts';
import { call, traceOf, within, type Trace } from '../../trace/trace.ts';
import type { Keeps, Kept, KnobRules, Resize, Transfer } from '../../trace/knobs.ts';
import { nameParameters, type Module } from '../../trace/module.ts';
import type { Parameter } from '../../trace/parameter.ts';
import { noticeWrites } from '../../trace/user-values.ts';
import { checkCapacity, type Capacity } from './capacity.ts';
import { keeping } from './chunks.ts';
import { ExpertBank, type Activation } from './experts.ts';
import { lossOf, LOSSES, type LossName } from './losses.ts';
import { OVERFLOWS, PRIORITIES, routed, type Overflow, type Priority, type Routing } from './routing.ts';
import { checkSettings, type MoEOptions } from './options.ts';
import { secondOf, type Choice, type Router } from './router.ts';
import { TopKRouter } from './routers.ts';
import { MOE_KNOBS } from './knobs.ts';
import { resizeMoE } from './resize.ts';
import { ChoiceMemory, ROUTINGS, type RoutingMode } from './memory.ts';
import {
  activeOf,
  checkChoices,
  freshSlots,
  openSlots,
  readSlots,
  type Families,
  type OpenSlots,
  type SlotsValue,
} from './slots.ts';
import { routerParts, transferMoE } from './transfer.ts';
import { DISPATCHES, runExperts, type Dispatch, type Experts } from './strategies.ts';

export type { MoEOptions };

const among = <T>(what: string, value: T, list: readonly T[]): T => {
  if (!list.includes(value)) throw new UserError(`MoE: no ${what} named ${String(value)}`, `one of ${list.join(', ')}`);
  return value;
};

const atLeastOne = (what: string, n: number): number => {
  if (!Number.isInteger(n) || n < 1 || n >= 2 ** 31)
    throw new UserError(`MoE: ${what} must be a whole number of at ` + `least 1, got ${n}`);
  return n;
};

/**
 * In a layer, and in the layers of a TransformerLM together: what is kept of each on the host takes time and memory.
 */
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
  /** What may change between steps, and when a change leaves all bits alone. */
  static readonly knobs: KnobRules = MOE_KNOBS;
  /** Another capacity in a graph that is there already. */
  static readonly resize: Resize = resizeMoE;
  /** What goes along when an expert is merged or split. */
  static readonly transfer: Transfer = (moe, from, to) => transferMoE(moe as MoE, from, to);
  /** Frozen experts, a frozen gate, and what lies in free slots. */
  static readonly keeps: Keeps = (moe) => (moe as MoE).#kept();
  static {
    noticeWrites(MoE);
  }
  readonly router: Router;
  readonly experts: Experts;
  readonly shared: Module<Tensor, Tensor> | SharedExpert | null;
  readonly #losses: readonly (readonly [LossName, number])[];
  readonly #count: number;
  readonly #built: number;
  #topK = 1;
  #capacity: Capacity = 'dropless';
  #overflow: Overflow = 'drop';
  #priority: Priority = 'position';
  #dispatch: Dispatch = 'ragged';
  #expertRows = 0;
  #routing: RoutingMode = 'live';
  #remember = 65_536;
  #audit = 16;
  #gateFrozen = false;
  #recompute = false;
  #chunks = 1;
  #frozen: readonly boolean[];
  #slots: SlotsValue;
  #families: Families;

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
        `MoE: experts must be a whole number ` + `of at least 1, or a list of modules, got ${this.#count}`,
      );
    if (this.#count > MOST_EXPERTS) throw new UserError(`MoE: at most ${MOST_EXPERTS} experts, got ${this.#count}`);
    this.#frozen = Object.freeze(new Array<boolean>(this.#count).fill(false));
    this.#slots = Object.freeze(freshSlots(this.#count));
    this.#families = readSlots(this.#slots).families;
    this.topK = this.#built = options.topK;
    if (router && router.experts !== this.#count)
      throw new UserError(`MoE: there are ${this.#count} experts, the ` + `router knows ${router.experts}`);
    this.router =
      router ?? new TopKRouter({ dModel, experts: this.#count, ...(normalise !== undefined && { normalise }) });
    if (typeof experts !== 'number') this.experts = experts;
    else {
      if (hidden === undefined)
        throw new UserError('MoE: a bank of experts needs `hidden`, the width of their ' + 'hidden layer');
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
          `MoE: the coefficient of ` + `the loss ${name} must be a number of at least 0, got ${shown(coefficient)}`,
        );
    }
    this.#losses = LOSSES.flatMap((name) => (coefficients[name] ? [[name, coefficients[name]] as const] : []));
    if (options.capacity !== undefined) this.capacity = options.capacity;
    if (options.overflow !== undefined) this.overflow = options.overflow;
    if (options.priority !== undefined) this.priority = options.priority;
    if (options.dispatch !== undefined) this.dispatch = options.dispatch;
    if (options.expertRows !== undefined) this.expertRows = options.expertRows;
    if (options.remember !== undefined) this.remember = options.remember;
    if (options.audit !== undefined) this.audit = options.audit;
    if (options.routing !== undefined) this.routing = options.routing;
    const { active = this.#count } = options;
    if (!Number.isInteger(active) || active < 1 || active > this.#count)
      throw new UserError(`MoE: active must be ` + `from 1 to the number of experts (${this.#count}), got ${active}`);
    if (active < this.#count) this.slots = freshSlots(this.#count, active);
    if (options.recompute !== undefined) this.recompute = options.recompute;
    if (options.chunks !== undefined) this.chunks = options.chunks;
  }

  get topK(): number {
    return this.#topK;
  }
  set topK(k: number) {
    if (!Number.isInteger(k) || k < 1 || k > this.#count)
      throw new UserError(`MoE: topK must be from 1 to the ` + `number of experts (${this.#count}), got ${k}`);
    checkChoices(k, this.#families);
    this.#topK = k;
  }

  get capacity(): Capacity {
    return this.#capacity;
  }
  set capacity(capacity: Capacity) {
    this.#capacity = checkCapacity(capacity, this.#count);
  }

  get overflow(): Overflow {
    return this.#overflow;
  }
  set overflow(overflow: Overflow) {
    this.#overflow = among('overflow', overflow, OVERFLOWS);
  }

  get priority(): Priority {
    return this.#priority;
  }
  set priority(priority: Priority) {
    this.#priority = among('priority', priority, PRIORITIES);
  }

  get dispatch(): Dispatch {
    return this.#dispatch;
  }
  set dispatch(dispatch: Dispatch) {
    this.#dispatch = among('dispatch', dispatch, DISPATCHES);
  }

  get expertRows(): number {
    return this.#expertRows;
  }
  set expertRows(rows: number) {
    if (rows !== 0 && !(Number.isInteger(rows) && Number.isInteger(Math.log2(rows))))
      throw new UserError(
        `MoE: expertRows must be a power of 2, or 0 for not known, got ${rows}`,
        'so that plans recur',
      );
    this.#expertRows = rows;
  }

  get routing(): RoutingMode {
    return this.#routing;
  }
  set routing(routing: RoutingMode) {
    if (among('routing', routing, ROUTINGS) !== 'live' && !this.router.remembers) {
      throw new UserError(
        `MoE: choices of a ${this.router.constructor.name} cannot be remembered: they do not ` +
          `follow from a token alone, or it does not say \`remembers\``,
        "routing 'live'",
      );
    }
    this.#routing = routing;
  }

  get remember(): number {
    return this.#remember;
  }
  set remember(samples: number) {
    this.#remember = atLeastOne('remember', samples);
  }

  get audit(): number {
    return this.#audit;
  }
  set audit(samples: number) {
    this.#audit = atLeastOne('audit', samples);
  }

  /** Whether the router keeps its values in training. */
  get gateFrozen(): boolean {
    return this.#gateFrozen;
  }
  set gateFrozen(frozen: boolean) {
    if (typeof frozen !== 'boolean')
      throw new UserError(`MoE: gateFrozen must be true or false, got ` + `${String(frozen)}`);
    this.#gateFrozen = frozen;
  }

  get recompute(): boolean {
    return this.#recompute;
  }
  set recompute(recompute: boolean) {
    this.#recompute = among('recompute', recompute, [false, true]);
  }

  get chunks(): number {
    return this.#chunks;
  }
  set chunks(chunks: number) {
    if (!Number.isInteger(chunks) || chunks < 1)
      throw new UserError(`MoE: chunks must be a whole number of at ` + `least 1, got ${chunks}`);
    if (chunks > 1 && !(this.experts instanceof ExpertBank))
      throw new UserError(
        'MoE: experts that are modules are ' + 'not computed in chunks',
        'recompute: true keeps none of their hidden values',
      );
    this.#chunks = chunks;
  }

  /** Which experts keep their values in training. */
  get frozen(): readonly boolean[] {
    return this.#frozen;
  }
  set frozen(frozen: boolean | readonly boolean[]) {
    const list = typeof frozen === 'boolean' ? new Array<boolean>(this.#count).fill(frozen) : frozen;
    if (typeof list !== 'object' || list.length !== this.#count || list.some((f) => typeof f !== 'boolean')) {
      throw new UserError(
        `MoE: frozen must be true, false, or a list of ${this.#count} of them, got ` + `${JSON.stringify(frozen)}`,
      );
    }
    this.#frozen = Object.freeze([...list]);
  }

  #kept(): Kept[] {
    const free = this.#families.map((family) => family === null),
      list = this.#frozen.map((f, e) => f || free[e]),
      kept: Kept[] = [];
    if (!this.#gateFrozen && !list.includes(true)) return kept; // asked at every step
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
    if (this.#gateFrozen) keep(of(this.router), [true], 0);
    for (const { parameter, axis } of routerParts(this.router)) keep([parameter], free, axis);
    return kept;
  }

  /**
   * What each slot holds ('on', 'off' for free, 'like 3' for a copy of slot 3's expert) before the last change, then
   * its number and what it did.
   */
  get slots(): SlotsValue {
    return this.#slots;
  }
  set slots(slots: SlotsValue) {
    const { families } = readSlots(slots, this.#count);
    if (openSlots(families) && !this.router.expertAxes) {
      throw new UserError(
        `MoE: with a ${this.router.constructor.name} experts cannot be pruned, merged or split`,
        'TopKRouter and SigmoidRouter can, without groups',
      );
    }
    checkChoices(this.#topK, families);
    this.#slots = Object.freeze([...slots]);
    this.#families = families;
  }

  /** Which slots hold an expert. */
  get active(): readonly boolean[] {
    return activeOf(this.#families);
  }

  /** ids int32 [...]: the tokens' ids, for a router that goes by them. */
  forward(x: Tensor, ids?: Tensor): Tensor {
    return within(x, this, () => this.#forward(x, ids));
  }

  #forward(x: Tensor, ids?: Tensor): Tensor {
    const shape = x.shape.map(boundOf),
      count = shape.slice(0, -1).reduce((n, d) => n * d, 1);
    const tokens = reshape(x, [count, shape[shape.length - 1]]); // [tokens, dModel]
    const slots = openSlots(this.#families),
      memory = ChoiceMemory.of(this, tokens, {
        routing: this.#routing,
        experts: this.#count,
        k: this.#topK,
        remember: this.#remember,
        audit: this.#audit,
        closed: slots !== null,
      });
    const choice = within(x, this.router, () =>
      this.router.choose(tokens, {
        k: this.#topK,
        built: this.#built,
        ids: ids && reshape(ids, [count]),
        slots,
        pick: memory ? (scores) => memory.pick(scores) : undefined,
      }),
    );
    memory?.settle();
    const routing = this.#route(choice, memory),
      { indices } = choice,
      weights = cast(choice.weights, tokens.dtype);
    // [tokens, width]
    const combined = runExperts(this.#dispatch, this.experts, tokens, routing, indices, weights, {
      recompute: this.#recompute,
      chunks: this.#chunks,
    });
    this.#report(tokens, choice, routing, slots);
    this.router.observe?.(routing.load, slots);
    const { shared } = this,
      y = shared
        ? add(
            combined,
            keeping(tokens, this, () => call(shared, tokens)),
          )
        : combined;
    return reshape(y, [...shape.slice(0, -1), boundOf(y.shape[1])]);
  }

  #route({ indices, scores, expertsChoose }: Choice, memory: ChoiceMemory | null): Routing {
    const experts = this.#count,
      padded = this.#dispatch === 'padded',
      expertRows = this.#expertRows,
      tiled = this.experts instanceof ExpertBank && (padded || this.#dispatch === 'ragged');
    if (expertsChoose === true && this.router.expertsChoose !== true)
      throw new UserError(
        'MoE: the router gives ' + 'choices of experts that choose tokens, and does not say so of itself',
        'readonly expertsChoose = true, in the router',
      );
    if (!expertsChoose)
      return routed(indices, {
        experts,
        padded,
        tiled,
        expertRows,
        capacity: this.#capacity,
        overflow: this.#overflow,
        priority: this.#priority,
        scores,
        active: this.active,
        sorted: memory?.sorted(indices) ?? null,
      });
    // Every token chooses every expert, and an expert takes its best: on average topK experts a token.
    const share = this.#topK / experts,
      factor = this.#capacity === 'dropless' ? 1 : this.#capacity;
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
          neg(mean(sum(mul(choice.probs, log(maximum(choice.probs, scalar(choice.probs, 1e-30)))), [1]))),
        );
      // where experts choose, no choice of a token is its second
      if (!choice.expertsChoose) this.#reportSecond(trace, choice);
    }
    if (overflowCounts && !choice.expertsChoose)
      trace.addStat(this, this.#overflow === 'spill' ? 'spilled' : 'dropped', overflowCounts);
    for (const [name, coefficient] of this.#losses)
      trace.addLoss(this, name, lossOf(name, choice, load, slots), coefficient);
  }

  #reportSecond(trace: Trace, { weights, probs, second }: Choice): void {
    if (this.#topK > 1) trace.addStat(this, 'secondGateWeight', mean(secondOf(weights)));
    else if (second && this.#count > 1) trace.addStat(this, 'secondGateWeight', mean(second()));
    else if (probs && this.#count > 1) {
      const { values } = topK(probs, 2); // what a second choice would weigh beside the first
      trace.addStat(
        this,
        'secondGateWeight',
        mean(div(secondOf(values), maximum(sum(values, [1]), scalar(values, 1e-30)))),
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
    return reshape(this.bank.batched(reshape(x, [1, tokens, width])), [tokens, width]);
  }
}
