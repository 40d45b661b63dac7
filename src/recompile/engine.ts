// The recompilation engine: observe, trigger, alter, compile in the background, verify, swap at a step boundary, measure, keep or undo.
// In: rules, and the results of steps; out: which plan the next step takes, and an event for each decision. It knows a session only as
// a Plant. Nothing that fails here costs a step: it is told by name, and the old plan goes on.
import { RunStats, type Shown, type StatsState } from '../observe/run-stats.ts';
import { alone, type Agreement } from './agreement.ts';
import type { Draft } from './draft.ts';
import type { Change, ChangeClass, Knobs, Settings } from '../trace/knobs.ts';
import type { RecompileEvent, Rule } from './rule.ts';
import { Trial } from './trial.ts';

/** Steps from the decision to the first step of a change of results. */
export const NOTICE = 32;
const COOLDOWN = 100, STRIKES = 3; // exceptions until a rule is left out

/** A plan that is compiled or being compiled. `load` takes its memory; throws if there is too little. */
export interface Prepared { readonly cached: boolean; readonly ready: Promise<void>; load(): void; bytes(): number }

/** What the engine works on. */
export interface Plant {
  readonly knobs: Knobs;
  /** Number of the step that comes next: 1 for the first. */
  next(): number;
  draft(): Draft<object>;
  /** Begins to compile the programs of a step as they are with these changes; null while no step was begun yet. Throws where the model
   * cannot be traced with them. */
  prepare(changes: readonly Change[]): Prepared | null;
  /** Planned bytes of the plan that runs. */
  bytes(): number;
}

interface Pending {
  readonly rule: string;
  readonly step: number;
  readonly class: ChangeClass;
  readonly changes: readonly Change[];
  readonly reason: string;
  readonly tolerance: number;
  /** First step of the new plan: known from the start for a change of results. */
  readonly due: number | null;
  prepared: Prepared | null;
  ready: boolean;
  verified: boolean;
  compileMs: number;
  verifyMs: number;
  stallMs: number;
  trial: Trial | null;
  effect: number | null;
  readonly bytes: number;
}

interface Past { last: number; count: number; strikes: number }

/** A line of the decision log: changes of results, in order. Plain JSON. */
export interface Decision { readonly step: number; readonly effect: number; readonly rule: string; readonly changes: readonly Change[] }

/** What resume needs: plain JSON. */
export interface EngineState {
  readonly knobs: Readonly<Record<string, Settings>>;
  readonly stats: StatsState;
  readonly rules: Readonly<Record<string, Past>>;
  readonly log: readonly Decision[];
  /** A change of results that is decided and not yet in force. */
  readonly pending: (Decision & { readonly reason: string; readonly tolerance: number | null; readonly verified: boolean }) | null;
}

/** What the next step is to do. */
export interface StepPlan {
  /** Changes under which the step is to run once more, storing nothing, for comparison. */
  readonly verify: readonly Change[] | null;
}

/** How a dry run compared with the real step. */
export interface Comparison { readonly equal: boolean; readonly finite: boolean; readonly loss: number; readonly dryLoss: number; readonly ms: number; readonly differs: string | null }

export class Engine {
  readonly stats = new RunStats();
  readonly #plant: Plant;
  readonly #agreement: Agreement;
  readonly #emit: (event: RecompileEvent) => void;
  readonly #rules = new Map<string, Rule<object>>();
  readonly #past = new Map<string, Past>();
  readonly #verified = new Set<string>();
  readonly #log: Decision[] = [];
  /** Changes of results that may be taken back, by rule. */
  readonly #inForce = new Map<string, readonly Change[]>();
  #pending: Pending | null = null;
  #turn: 'old' | 'new' = 'old';

  constructor(plant: Plant, emit: (event: RecompileEvent) => void, agreement: Agreement = alone) {
    this.#plant = plant;
    this.#emit = emit;
    this.#agreement = agreement;
  }

  /** Rules are asked in the order in which they came; one recompilation is under way at a time. */
  add(rule: Rule<object>): void { this.#rules.set(rule.name, rule); }
  get rules(): readonly string[] { return [...this.#rules.keys()]; }
  get busy(): boolean { return this.#pending !== null; }
  get log(): readonly Decision[] { return this.#log; }

  /** At a step boundary. Whatever the engine does here, it does to the time of the step: that is counted as stall. */
  async begin(): Promise<StepPlan> {
    const start = performance.now(), pending = this.#pending;
    if (!pending) { this.#ask(); return { verify: null }; }
    const step = this.#plant.next();
    try {
      if (pending.trial) { this.#take(pending.trial.next); return { verify: null }; }
      if (!pending.prepared && pending.due !== null && step >= pending.due - 1) this.#prepare(pending);
      if (!await this.#isReady(pending, step)) return { verify: null };
      if (pending.due !== null && step < pending.due - 1) return { verify: null };
      const key = this.#keyOf(pending);
      if (!pending.verified && !this.#verified.has(key)) {
        pending.prepared?.load();
        return { verify: pending.changes };
      }
      if (pending.due === null || step >= pending.due) {
        pending.prepared?.load();
        this.#swap(pending, step);
      }
      return { verify: null };
    } catch (error) {
      this.#fail(pending, error);
      return { verify: null };
    } finally {
      pending.stallMs += performance.now() - start;
    }
  }

  async #isReady(pending: Pending, step: number): Promise<boolean> {
    const must = pending.due !== null && step >= pending.due - 1;
    if (must) await pending.prepared?.ready;
    // Lets what has settled be seen.
    await Promise.race([pending.prepared?.ready, Promise.resolve()]);
    return pending.due !== null ? pending.ready || must : this.#agreement.agreeSwapStep(step, pending.ready);
  }

  /** While a step runs on the device: tracing and lowering cost the least then. */
  during(): void {
    const pending = this.#pending;
    if (!pending || pending.prepared) return;
    try {
      this.#prepare(pending);
    } catch (error) {
      this.#fail(pending, error);
    }
  }

  /** After a step. `compared`: of a plan that ran beside. */
  async end(own: Shown, compared: Comparison | null): Promise<void> {
    const shown = await this.#agreement.reduceStats(own), pending = this.#pending;
    this.stats.show(shown);
    if (!pending) return;
    // What a step took beyond the usual while a compiler ran beside it is part of the price.
    if (!pending.trial) pending.stallMs += Math.max(0, own.ms - this.stats.usualMs()) || 0;
    if (compared) this.#judge(pending, compared);
    else if (pending.trial) {
      pending.trial.took(this.#turn, shown.ms);
      if (pending.trial.done) this.#conclude(pending, pending.trial);
    }
  }

  #ask(): void {
    const step = this.#plant.next();
    for (const rule of this.#rules.values()) {
      const past = this.#past.get(rule.name) ?? { last: -Infinity, count: 0, strikes: 0 };
      if (past.strikes >= STRIKES || step - past.last < (rule.cooldown ?? COOLDOWN) || past.count >= (rule.budget ?? Infinity)) continue;
      let klass: ChangeClass | null = null, changes: readonly Change[] = [], reason = rule.name;
      try {
        this.stats.clockWasRead();
        const back = this.#inForce.get(rule.name);
        if (back && rule.undo?.(this.stats)) {
          changes = back.map((c) => ({ ...c, from: c.to, to: c.from }));
          reason = 'taken back';
        } else {
          if (!rule.trigger(this.stats)) continue;
          const draft = this.#plant.draft();
          rule.alter(draft.model, this.stats);
          changes = draft.changes();
          if (changes.length === 0) continue;
          reason = rule.reason?.(this.stats) ?? rule.name;
        }
        this.#plant.knobs.with(changes, () => undefined); // setters refuse what cannot be
        klass = this.#plant.knobs.classify(changes);
        if (klass === 'R' && rule.only === 'N') { this.#past.set(rule.name, { ...past, last: step }); continue; }
        if (klass === 'R' && this.stats.clockWasRead()) throw new Error('a rule that reads a clock (run.ms) may not change results: the run could not be repeated');
      } catch (error) {
        this.#past.set(rule.name, { last: step, count: past.count, strikes: past.strikes + 1 });
        this.#tell(step, rule.name, klass, changes, reason, error, past.strikes + 1 >= STRIKES);
        continue;
      }
      this.#past.set(rule.name, { last: step, count: past.count + 1, strikes: 0 });
      this.#open({ step, rule: rule.name, changes, effect: step + NOTICE }, klass, reason, rule.tolerance ?? Infinity);
      return;
    }
  }

  #open({ step, rule, changes, effect }: Decision, klass: ChangeClass, reason: string, tolerance: number, verified = false): void {
    if (klass === 'R') this.#log.push({ step, rule, changes, effect });
    const pending: Pending = { rule, step, class: klass, changes, reason, tolerance, due: klass === 'R' ? effect : null, prepared: null, ready: false, verified,
      compileMs: 0, verifyMs: 0, stallMs: 0, trial: null, effect: null, bytes: this.#plant.bytes() };
    this.#pending = pending;
  }

  #prepare(p: Pending): void {
    const start = performance.now();
    p.prepared = this.#plant.prepare(p.changes);
    p.prepared?.ready.then(() => { p.ready = true; p.compileMs = performance.now() - start; }, (error: unknown) => { if (this.#pending === p) this.#fail(p, error); });
  }

  /** Settings that were verified once need not be again. */
  #keyOf(p: Pending): string { return this.#plant.knobs.with(p.changes, () => this.#plant.knobs.key()); }

  #judge(p: Pending, c: Comparison): void {
    p.verifyMs += c.ms;
    const agrees = p.class === 'N' ? c.equal : c.finite && Math.abs(c.dryLoss - c.loss) <= p.tolerance * Math.abs(c.loss);
    if (!agrees) {
      const what = p.class === 'N' ? `${c.differs ?? 'a result'} differs` : `loss ${c.dryLoss} against ${c.loss}`;
      this.#fail(p, new Error(`the new plan does not agree with the old one: ${what}`), false);
      return;
    }
    p.verified = true;
    this.#verified.add(this.#keyOf(p));
  }

  #swap(p: Pending, step: number): void {
    p.effect = step;
    if (p.class === 'N' && (this.#rules.get(p.rule)?.measure ?? true)) {
      p.trial = new Trial();
      this.#turn = 'old';
      this.#take(p.trial.next);
      return;
    }
    this.#plant.knobs.apply(p.changes);
    if (p.class === 'R') this.#inForce.set(p.rule, p.changes);
    this.#close(p, true);
  }

  #take(turn: 'old' | 'new'): void {
    const p = this.#pending;
    if (!p || turn === this.#turn) return;
    if (turn === 'new') this.#plant.knobs.apply(p.changes); else this.#plant.knobs.undo(p.changes);
    this.#turn = turn;
  }

  #conclude(p: Pending, trial: Trial): void {
    const kept = trial.ratio.high >= 1;
    this.#take(kept ? 'new' : 'old');
    this.#turn = 'old';
    this.#close(p, kept, trial);
  }

  #close(p: Pending, kept: boolean, trial?: Trial, error?: string): void {
    this.#pending = null;
    const { ratio, medians } = trial ?? {}, round = (x: number): number => Number(x.toFixed(3));
    this.#emit({ event: 'recompile', step: p.step, effect: p.effect, rule: p.rule, class: p.class, reason: p.reason, changes: p.changes,
      cached: p.prepared?.cached ?? false, compile_ms: round(p.compileMs), verify_ms: round(p.verifyMs), stall_ms: round(p.stallMs),
      verified: p.verified || p.effect !== null ? true : error === undefined ? null : false, kept,
      before: { ms: medians ? round(medians.old) : null, bytes: p.bytes },
      after: { ms: medians ? round(medians.fresh) : null, bytes: p.prepared?.bytes() ?? p.bytes },
      ...(ratio && { ratio: { mean: round(ratio.mean), low: round(ratio.low), high: round(ratio.high) } }), ...(error !== undefined && { error }) });
  }

  #fail(p: Pending, error: unknown, tried = true): void {
    if (p.trial) this.#take('old');
    if (p.class === 'R') this.#log.splice(this.#log.findIndex((d) => d.step === p.step && d.rule === p.rule), 1);
    this.#pending = p;
    if (tried) p.verified = false;
    this.#close(p, false, undefined, messageOf(error));
  }

  #tell(step: number, rule: string, klass: ChangeClass | null, changes: readonly Change[], reason: string, error: unknown, last: boolean): void {
    const bytes = this.#plant.bytes();
    this.#emit({ event: 'recompile', step, effect: null, rule, class: klass, reason, changes, cached: false, compile_ms: 0, verify_ms: 0, stall_ms: 0, verified: null, kept: false,
      before: { ms: null, bytes }, after: { ms: null, bytes }, error: `${messageOf(error)}${last ? `; after ${STRIKES} failures the rule is left out` : ''}` });
  }

  state(): EngineState {
    const p = this.#pending, { knobs } = this.#plant;
    const all = p?.trial && this.#turn === 'new' ? knobs.with(p.changes.map((c) => ({ ...c, from: c.to, to: c.from })), () => knobs.all()) : knobs.all();
    return { knobs: all, stats: this.stats.state(), rules: Object.fromEntries(this.#past), log: [...this.#log],
      pending: p?.class === 'R' && p.due !== null
        ? { step: p.step, effect: p.due, rule: p.rule, changes: p.changes, reason: p.reason, tolerance: Number.isFinite(p.tolerance) ? p.tolerance : null, verified: p.verified } : null };
  }

  restore({ knobs, stats, rules, log, pending }: EngineState): void {
    this.#plant.knobs.restore(knobs);
    this.stats.restore(stats);
    this.#past.clear();
    for (const [name, past] of Object.entries(rules)) this.#past.set(name, { ...past });
    this.#log.splice(0, this.#log.length, ...log.filter((d) => d.step !== pending?.step || d.rule !== pending.rule));
    for (const d of this.#log) this.#inForce.set(d.rule, d.changes);
    this.#pending = null;
    if (pending) this.#open(pending, 'R', pending.reason, pending.tolerance ?? Infinity, pending.verified);
  }
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error)).split('\n')[0];
