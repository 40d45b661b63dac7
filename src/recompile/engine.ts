// The recompilation engine: observe, trigger, alter, compile in the background, verify, swap at a step boundary,
// measure, keep or undo. In: rules, and the results of steps; out: which plan the next step takes, and an event for
// each decision. It knows a session only as an EngineHost. No failure here stops a step: the event names the rule and
// the error, and the run continues with the old plan.
//
// Class N: results stay the same, bit by bit. Class R: results change.
import { asError, messageOf } from '../base/errors.ts';
import { keepRecent } from '../base/recent.ts';
import { RunStats, type StepReport } from '../observe/run-stats.ts';
import type { Change, TakeBack } from '../trace/knobs.ts';
import { alone, type Agreement } from './agreement.ts';
import { Pending, type Decision } from './pending.ts';
import type { Comparison, EngineHost, Prepared } from './engine-host.ts';
import type { RecompileEvent, Rule } from './rule.ts';
import { Rules, STRIKES, type Admitted, type Asked, type Fault } from './rules.ts';
import type { EngineState } from './engine-state.ts';
import { Trial } from './trial.ts';

/** Steps from the decision of a change of class R to its first step. */
export const NOTICE = 32;
/** How often a change of class N tries again to get memory for its plan, and after how many steps. */
const RETRIES = 3,
  WAIT = 32;
/** How many settings, and sets of kernels, are remembered as verified. */
const VERIFIED = 256;
/** A recompilation is given up after this many steps with batches of other shapes than it was compiled for. */
const PATIENCE = 256;

/** What the next step is to do. */
export interface StepPlan {
  /** The step also runs with these changes, storing nothing, so that results can be compared. */
  readonly verify: readonly Change[] | null;
}

export interface EngineOptions {
  readonly agreement?: Agreement | undefined;
  readonly rival?: () => Engine | null;
  readonly say?: (line: string, topic: 'rule') => void;
}

export class Engine {
  readonly stats = new RunStats();
  readonly #host: EngineHost;
  readonly #agreement: Agreement;
  readonly #rival: () => Engine | null;
  readonly #emit: (event: RecompileEvent) => void;
  readonly #rules = new Rules();
  /** Settings together with a batch shape, and sets of kernels, that were verified. */
  readonly #verified = new Map<string, true>();
  readonly #log: Decision[] = [];
  #pending: Pending | null = null;
  /** While a step of a trial runs by the new plan: takes its changes back. Between steps the old plan is in force. */
  #back: TakeBack | null = null;
  #timed = false;
  readonly #say: (line: string, topic: 'rule') => void;
  /** Rules whose first failure was reported through `say`. */
  readonly #said = new Set<string>();

  /**
   * `rival`: another engine that sets the same knobs. `say`: gets one line at the first failure of each rule; events
   * report every failure.
   */
  constructor(
    host: EngineHost,
    emit: (event: RecompileEvent) => void,
    { agreement = alone, rival = () => null, say = () => undefined }: EngineOptions = {},
  ) {
    this.#host = host;
    this.#emit = emit;
    this.#agreement = agreement;
    this.#rival = rival;
    this.#say = say;
  }

  /** Whether a recompilation is under way. */
  get busy(): boolean {
    return this.#pending !== null;
  }

  /** Rules are asked in the order in which they were added. One recompilation is under way at a time. */
  add(rule: Rule<object>): void {
    this.#rules.add(rule);
  }
  get rules(): readonly string[] {
    return this.#rules.names;
  }

  /** Called before plans are made ahead of a step: asks the rules with `first`, if there is no plan yet. */
  before(): void {
    this.#ask(this.#host.next(), 'onlyBeforeFirstPlan');
  }

  /**
   * Called at a step boundary. Returns no promise where no recompilation is under way, so that the step uses the model
   * as it was when `step` was called. The time spent here delays the step, so it is counted as stall.
   */
  begin(): StepPlan | Promise<StepPlan> {
    const start = performance.now(),
      step = this.#host.next();
    this.#ask(step);
    const p = this.#pending;
    return !p || p.decision.step === step ? { verify: null } : this.#continue(p, step, start);
  }

  async #continue(p: Pending, step: number, start: number): Promise<StepPlan> {
    p.waits = start;
    try {
      return { verify: await this.#advance(p, step) };
    } catch (error) {
      this.#fail(p, asError(error));
      return { verify: null };
    } finally {
      p.countWait();
    }
  }

  /** Gives the changes that this step is to verify. Throws the reason where the recompilation must be given up. */
  async #advance(p: Pending, step: number): Promise<readonly Change[] | null> {
    // When the change was decided there was no plan yet if the run had just started or resumed.
    p.bytes ||= this.#host.bytes();
    const moved = p.decision.changes.find(
      ({ path, knob, from }) => JSON.stringify(this.#host.knobs.settings(path)[knob]) !== JSON.stringify(from),
    );
    if (moved)
      throw new Error(`${moved.path ? `${moved.path}.` : ''}${moved.knob} was set by something else meanwhile`);
    if (p.trial) {
      this.#turns(p.trial);
      return null;
    }
    // A resize takes a few milliseconds. During a step it would take threads from the step, which waits for the
    // slowest.
    if (!p.prepared && p.error === null) this.#prepare(p, (changes) => this.#host.resize(changes));
    const must = p.due !== null && step >= p.due - 1,
      shape = this.#host.shape();
    if (p.due !== null && !must) return null;
    if (must && p.error === null) {
      if (!p.prepared?.has(shape)) this.#prepare(p);
      await p.prepared?.ready.catch(() => undefined);
    }
    await Promise.resolve(); // lets handlers of settled promises run, which set p.ready and p.error
    if (!(await this.#agreed(p, p.ready))) return null;
    this.#load(p, step);
    // If a change of class R got no memory beside the old plan, the next step loads it without that.
    if (!(await this.#agreed(p, p.loaded))) return null;
    if (p.due === null && !p.prepared?.has(shape)) {
      if (++p.mismatchedBatches > PATIENCE) throw new Error('no batch came of the shapes that it was compiled for');
      return null;
    }
    if (p.verified === null && !p.loadedExclusively && !this.#trusted(p, shape)) return p.decision.changes;
    if (p.due === null || step >= p.due) await this.#swap(p, step);
    return null;
  }

  /** Whether all processes are ready. Throws if the plan has failed in one of them. */
  async #agreed(p: Pending, ready: boolean): Promise<boolean> {
    const all = await this.#agreement.agree({ failed: p.error !== null, ready, exclusive: p.loadedExclusively });
    if (all.failed) throw p.error ?? new Error('it failed in another process');
    p.loadedExclusively = all.exclusive;
    return all.ready;
  }

  #load(p: Pending, step: number): void {
    if (p.loaded || !p.ready || p.error !== null || step < p.notBefore) return;
    p.loadedExclusively = p.due !== null && step >= p.due && p.tolerance === Infinity;
    try {
      p.prepared?.load(p.loadedExclusively);
      p.loaded = true;
    } catch (error) {
      if (p.class === 'N' && ++p.tries <= RETRIES) p.notBefore = step + WAIT;
      // With tolerance Infinity the comparison only checks that numbers are finite. Then the plan may take effect
      // without a comparison, once the old plan has run for the last time and its memory is free.
      else if (p.due === null || step >= p.due || p.tolerance !== Infinity) p.error = asError(error);
    }
  }

  /** Called while a step runs on the device: tracing and lowering delay nothing then. */
  during(): void {
    const p = this.#pending;
    if (p && !p.prepared && p.error === null) this.#prepare(p);
  }

  #prepare(p: Pending, prepare = (changes: readonly Change[]) => this.#host.prepare(changes) as Prepared | null): void {
    const start = performance.now();
    try {
      const prepared = prepare(p.decision.changes);
      if (!prepared) return;
      p.prepared = prepared;
      p.ready = p.loaded = false;
      p.compiling = true;
      prepared.ready.then(
        () => {
          p.ready = p.prepared === prepared;
          p.compileMs = performance.now() - start;
        },
        (error: unknown) => {
          p.error = asError(error);
        },
      );
    } catch (error) {
      p.error = asError(error);
    }
  }

  /** Called after a step. `compared`: the result of the comparison, if the step also ran with the new plan. */
  async end(own: StepReport, compared: Comparison | null): Promise<void> {
    let shown = own;
    try {
      shown = await this.#agreement.reduceStats(own, this.#decided());
    } catch (error) {
      const failed = asError(error);
      if (this.#pending) this.#fail(this.#pending, failed);
      else this.#sayOnce(this.rules.join(', '), `processes did not agree on statistics: ${messageOf(failed)}`);
    }
    this.stats.show(shown);
    const p = this.#pending;
    if (!p) return;
    // The extra time of steps while a compiler runs is part of the cost of a recompilation.
    if (p.compiling) p.slowMs += own.ms - this.stats.usualMs() || 0;
    if (p.ready || p.error) p.compiling = false;
    try {
      if (compared) this.#judge(p, compared);
      else if (p.trial && this.#timed) {
        p.trial.took(this.#back ? 'new' : 'old', shown.ms);
        if (p.trial.done) this.#conclude(p, p.trial);
      }
    } catch (error) {
      this.#fail(p, asError(error));
    }
  }

  /** The recompilation that is under way, as text. */
  #decided(): string {
    const { step, rule, changes } = this.#pending?.decision ?? { step: 0, rule: '', changes: [] };
    return this.#pending ? `${rule} at step ${step}: ${JSON.stringify(changes)}` : 'nothing';
  }

  /** Called after a step, also a failed one: evaluation, generation and checkpoints must find the plan in force. */
  settle(): void {
    this.#take('old');
  }

  /**
   * Called at the end of a run: a recompilation that is under way is dropped, and the result of its compiler ignored.
   */
  close(): void {
    this.settle();
    this.#pending = null;
  }

  /** Asks rules, and begins the recompilation that they decide on. */
  #ask(step: number, admitted = this.#admitted()): void {
    const rival = this.#rival(),
      names = this.rules.join(', ');
    this.#guarded(
      step,
      () => this.#pending?.decision.rule ?? names,
      () => {
        const asked = this.#rules.ask(this.#host, this.stats, admitted, (f) => {
          this.#tell(step, f);
        });
        if (asked)
          this.#guarded(
            step,
            () => asked.rule.name,
            () => {
              this.#decide(asked, step, rival);
            },
          );
      },
    );
  }

  #admitted(): Admitted {
    if (this.#pending?.class === 'R') return 'onlyBeforeFirstPlan';
    return this.busy || this.#rival()?.busy === true ? 'onlyR' : 'any';
  }

  #decide(asked: Asked, step: number, rival: Engine | null): void {
    if (asked.atOnce) {
      this.#atOnce(asked, step);
      return;
    }
    for (const engine of [this, rival]) engine?.giveWay(asked.rule.name);
    const { rule, changes, decided, reason, back } = asked,
      decision: Decision = {
        step,
        effect: step + NOTICE,
        rule: rule.name,
        changes,
        ...(decided && { decided }),
        ...(back && { back }),
      };
    this.#pending = new Pending(decision, asked.class, reason, rule.tolerance ?? Infinity, this.#bytes());
    if (asked.class === 'R') this.#log.push(decision);
  }

  /** An error in `work` stops no step: it is reported as a failure of a rule. */
  #guarded(step: number, rule: () => string, work: () => void): void {
    try {
      work();
    } catch (error) {
      this.#tell(step, { rule: rule(), class: null, changes: [], reason: '', error: asError(error), last: false });
    }
  }

  /** Applies changes before there is a first plan: there is nothing to compare with, and nothing to wait for. */
  #atOnce({ rule, changes, decided, reason, class: klass }: Asked, step: number): void {
    if (this.#pending?.class === 'N') this.giveWay(rule.name);
    this.#rival()?.giveWay(rule.name);
    const decision: Decision = { step, effect: step, rule: rule.name, changes, ...(decided && { decided }) },
      p = new Pending(decision, klass, reason, Infinity, this.#bytes());
    this.#host.knobs.apply(changes);
    p.effect = step;
    // The last entry of the log must stay the pending change.
    if (klass === 'R') this.#log.splice(this.#pending ? -1 : this.#log.length, 0, decision);
    this.#inForce(p);
    this.#emit({ ...p.event(true), after: { ms: null, bytes: this.#bytes() } });
  }

  /** Gives up what is under way, because another rule has a change of class R, which does not wait. */
  giveWay(rule: string): void {
    if (this.#pending) this.#fail(this.#pending, new Error(`a change of results came between: ${rule}`), false);
  }

  /**
   * Whether the comparison with the old plan can be left out. Class N: settings that gave the same bits once, for a
   * batch shape, need not be compared again. Class R: where kernels that ran before only run on other sizes, only the
   * memory plan is new, and plan/verify.ts checks that where it is made. A change that moves parameter values is always
   * compared, and so is one with a tolerance: how far it moves the loss depends on the current parameters.
   */
  #trusted(p: Pending, shape: string): boolean {
    const running = this.#host.kernels(),
      kernels = p.prepared?.kernels(shape) ?? null;
    if (running !== null) this.#verifies(running);
    if (p.class === 'N') return this.#verified.has(this.#keyOf(p));
    return (
      kernels !== null &&
      p.tolerance === Infinity &&
      this.#verified.has(kernels) &&
      this.#host.knobs.moves(p.decision.changes).length === 0
    );
  }

  /** Remembers the last VERIFIED of them; one that was dropped is compared again. */
  #verifies(what: string): void {
    keepRecent(this.#verified, what, true, VERIFIED);
  }

  #keyOf({ decision }: Pending): string {
    return `${this.#host.knobs.with(decision.changes, () => this.#host.knobs.key())} ${this.#host.shape()}`;
  }

  #judge(p: Pending, c: Comparison): void {
    p.verifyMs += c.ms;
    p.verified =
      p.class === 'N'
        ? c.equal
        : c.finite && (p.tolerance === Infinity || Math.abs(c.dryLoss - c.loss) <= p.tolerance * Math.abs(c.loss));
    if (p.verified) return;
    const what =
      p.class === 'N' || Number.isNaN(c.dryLoss)
        ? (c.differs ?? 'a result differs')
        : `loss ${c.dryLoss} against ${c.loss}`;
    p.error = new Error(`the new plan does not agree with the old one: ${what}`);
  }

  async #swap(p: Pending, step: number): Promise<void> {
    const { rule, changes } = p.decision;
    if (!p.loadedExclusively) p.verified = true;
    if (p.class === 'N') this.#verifies(this.#keyOf(p));
    const kernels = p.prepared?.kernels(this.#host.shape()) ?? null;
    if (kernels !== null) this.#verifies(kernels);
    if (p.class === 'N' && (this.#rules.get(rule)?.measure ?? true)) {
      p.trial = new Trial(this.#host.shape());
      p.effect = step;
      this.#turns(p.trial);
      return;
    }
    const takeBack = await this.#host.carry(changes);
    try {
      this.#host.knobs.apply(changes);
    } catch (error) {
      takeBack();
      throw error;
    }
    p.effect = step;
    this.#inForce(p);
    this.#close(p, true);
  }

  /** Records that the changes were applied and stay. */
  #inForce({ class: klass, decision: { rule, changes, decided = changes, back } }: Pending): void {
    if (klass === 'N') {
      this.#host.knobs.becameNeutral(changes);
      return;
    }
    this.#host.knobs.becameDeterministic(decided);
    this.#rules.took(rule, decided, back ?? false);
  }

  /** Chooses the plan of the next step of a trial. */
  #turns(trial: Trial): void {
    this.#timed = trial.shape === this.#host.shape();
    if (this.#timed) this.#take(trial.next);
    else if (trial.countMismatch() > PATIENCE) throw new Error('too few batches came of the shape that was measured');
  }

  #take(turn: 'old' | 'new'): void {
    const p = this.#pending;
    if (turn === 'old') {
      this.#back?.();
      this.#back = null;
    } else if (p?.trial) this.#back ??= this.#host.knobs.apply(p.decision.changes);
  }

  #conclude(p: Pending, trial: Trial): void {
    this.#take('old');
    const kept = trial.ratio.high >= 1;
    if (kept) {
      this.#host.knobs.apply(p.decision.changes);
      this.#inForce(p);
    }
    this.#rules.measured(p.decision.rule, kept);
    this.#close(p, kept);
  }

  #close(p: Pending, kept: boolean, error?: string): void {
    this.#pending = null;
    if (kept) this.#host.trim();
    this.#emit(p.event(kept, error));
  }

  #fail(p: Pending, error: Error, said = true): void {
    if (said) this.#sayOnce(p.decision.rule, `its recompilation was given up: ${messageOf(error)}`);
    this.settle();
    const at = this.#log.indexOf(p.decision);
    if (at >= 0) this.#log.splice(at, 1);
    this.#close(p, false, messageOf(error));
    p.prepared?.drop();
  }

  #sayOnce(rule: string, what: string): void {
    if (this.#said.has(rule)) return;
    this.#said.add(rule);
    this.#say(`the rule "${rule}": ${what} (said once; \`events\` of CompileOptions is told each time)`, 'rule');
  }

  #tell(step: number, { rule, class: klass, changes, reason, error, last }: Fault): void {
    this.#sayOnce(rule, `it failed: ${messageOf(error)}`);
    const failed = new Pending({ step, effect: step, rule, changes }, klass, reason, Infinity, this.#bytes());
    this.#emit(
      failed.event(false, `${messageOf(error)}${last ? `; after ${STRIKES} failures the rule is left out` : ''}`),
    );
  }

  #bytes(): number {
    try {
      return this.#host.bytes();
    } catch {
      return 0;
    } // The model cannot be traced any more; the step itself reports the error.
  }

  state(): EngineState {
    const p = this.#pending,
      { knobs } = this.#host,
      { decision, reason, tolerance = Infinity, verified } = p ?? {};
    const own = (): Pick<EngineState, 'knobs' | 'decided'> => ({ knobs: knobs.all(), decided: knobs.deterministic() });
    const kept =
      p && this.#back
        ? knobs.with(
            p.decision.changes.map((c) => ({ ...c, from: c.to, to: c.from })),
            own,
          )
        : own();
    return {
      ...kept,
      stats: this.stats.state(),
      ...this.#rules.state(),
      log: [...this.#log],
      pending:
        p?.class === 'R' && decision
          ? {
              ...decision,
              reason: reason ?? '',
              tolerance: Number.isFinite(tolerance) ? tolerance : null,
              verified: verified ?? null,
            }
          : null,
    };
  }

  /** null: the run had no rules. */
  restore(state: EngineState | null): void {
    this.settle();
    if (state) this.#host.knobs.restore(state.knobs, state.decided); // may throw, so it comes first
    this.close();
    const { pending = null, log = [], rules = {}, neutral = {} } = state ?? {};
    this.#rules.restore({ rules, neutral });
    this.stats.restore(state?.stats ?? { steps: 0, loss: NaN, layers: {}, late: [] });
    this.#log.splice(0, this.#log.length, ...log);
    for (const d of log)
      if (d.step !== pending?.step || d.rule !== pending.rule)
        this.#rules.took(d.rule, d.decided ?? d.changes, d.back ?? false);
    if (!pending) return;
    const { reason, tolerance, verified, ...decision } = pending,
      at = this.#log.length - 1;
    this.#log[at] = decision; // must be the same object as the pending one, which `#fail` removes from the log
    this.#pending = new Pending(decision, 'R', reason, tolerance ?? Infinity, this.#bytes());
    this.#pending.verified = verified;
  }
}
