// The recompilation engine: observe, trigger, alter, compile in the background, verify, swap at a step boundary,
// measure, keep or undo. In: rules, and the results of steps; out: which plan the next step takes, and an event for
// each decision. It knows a session only as a Plant. Nothing that fails here costs a step: it is told by name, and the
// old plan goes on.
import { keepRecent } from '../base/recent.ts';
import { RunStats, type Shown, type StatsState } from '../observe/run-stats.ts';
import type { Change, Settings, TakeBack } from '../trace/knobs.ts';
import { alone, type Agreement } from './agreement.ts';
import { asError, messageOf, Pending, type Decision } from './pending.ts';
import type { Comparison, EngineHost, Prepared } from './engine-host.ts';
import type { RecompileEvent, Rule } from './rule.ts';
import { Rules, STRIKES, type Asked, type Fault, type RulesState } from './rules.ts';
import { Trial } from './trial.ts';

/** Steps from the decision to the first step of a change of results. */
export const NOTICE = 32;
const RETRIES = 3,
  WAIT = 32; // a change of no result waits so often, so many steps, for memory
const VERIFIED = 256; // settings and sets of kernels whose bits were shown
const PATIENCE = 256; // steps with batches of other shapes than the plan was made for

/** What resume needs: plain JSON. */
export interface EngineState extends RulesState {
  readonly knobs: Readonly<Record<string, Settings>>;
  /** Of knobs that a change of no result has set: what they would be without. Checkpoints of old have none. */
  readonly decided?: Readonly<Record<string, Settings>>;
  readonly stats: StatsState;
  readonly log: readonly Decision[];
  /** A change of results that is decided and not yet in force. */
  readonly pending:
    | (Decision & { readonly reason: string; readonly tolerance: number | null; readonly verified: boolean | null })
    | null;
}

/** What the next step is to do. */
export interface StepPlan {
  /** Changes under which the step is to run once more, storing nothing, for comparison. */
  readonly verify: readonly Change[] | null;
}

export interface EngineOptions {
  readonly agreement?: Agreement | undefined;
  readonly rival?: () => Engine | null;
  readonly say?: (line: string, topic: 'rule') => void;
}

export class Engine {
  readonly stats = new RunStats();
  readonly #plant: EngineHost;
  readonly #agreement: Agreement;
  readonly #rival: () => Engine | null;
  readonly #emit: (event: RecompileEvent) => void;
  readonly #rules = new Rules();
  /** Settings by shape, and sets of kernels, that were. */
  readonly #verified = new Map<string, true>();
  readonly #log: Decision[] = [];
  #pending: Pending | null = null;
  /**
   * While a step of a trial runs by the new plan: what takes its changes back. Between steps the old plan is in force.
   */
  #back: TakeBack | null = null;
  #timed = false;
  readonly #say: (line: string, topic: 'rule') => void;
  /** Rules of which a failure was said. */
  readonly #said = new Set<string>();

  /**
   * `rival`: another engine that sets the same knobs. `say`: told once for each rule that it failed, in one line;
   * events tell every time.
   */
  constructor(
    plant: EngineHost,
    emit: (event: RecompileEvent) => void,
    { agreement = alone, rival = () => null, say = () => undefined }: EngineOptions = {},
  ) {
    this.#plant = plant;
    this.#emit = emit;
    this.#agreement = agreement;
    this.#rival = rival;
    this.#say = say;
  }

  /** A recompilation is under way. */
  get busy(): boolean {
    return this.#pending !== null;
  }

  /** Rules are asked in the order in which they came; one recompilation is under way at a time. */
  add(rule: Rule<object>): void {
    this.#rules.add(rule);
  }
  get rules(): readonly string[] {
    return this.#rules.names;
  }

  /** Before plans are made ahead of a step: rules that are asked where there is none yet. */
  before(): void {
    this.#ask(this.#plant.next(), true);
  }

  /**
   * At a step boundary; at once where nothing is under way, so that the step takes the model as it was when it was
   * called. Whatever the engine does here, it does to the time of the step: that is counted as stall.
   */
  begin(): StepPlan | Promise<StepPlan> {
    const start = performance.now(),
      step = this.#plant.next();
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

  /** Gives the changes that this step is to verify. Throws why the recompilation is given up. */
  async #advance(p: Pending, step: number): Promise<readonly Change[] | null> {
    // Before the first step, and where a run was just resumed, there was no plan yet.
    p.bytes ||= this.#plant.bytes();
    const moved = p.decision.changes.find(
      ({ path, knob, from }) => JSON.stringify(this.#plant.knobs.settings(path)[knob]) !== JSON.stringify(from),
    );
    if (moved) throw new Error(`${moved.path ? `${moved.path}.` : ''}${moved.knob} was set by somebody else meanwhile`);
    if (p.trial) {
      this.#turns(p.trial);
      return null;
    }
    // Beside a step it would take as long again, from a step that waits for its slowest thread.
    if (!p.prepared && p.error === null) this.#prepare(p, (changes) => this.#plant.resize(changes));
    const must = p.due !== null && step >= p.due - 1,
      shape = this.#plant.shape();
    if (p.due !== null && !must) return null;
    if (must && p.error === null) {
      if (!p.prepared?.has(shape)) this.#prepare(p);
      await p.prepared?.ready.catch(() => undefined);
    }
    await Promise.resolve(); // lets what has settled be seen
    this.#load(p, step);
    if (await this.#agreement.anyFailed(p.error !== null)) throw p.error ?? new Error('it failed in another process');
    if (p.due !== null && !p.loaded) return null; // no room beside the old plan: it is tried alone
    if (p.due === null && !(await this.#agreement.agreeSwapStep(step, p.loaded))) return null;
    if (p.due === null && !p.prepared?.has(shape)) {
      if (++p.mismatchedBatches > PATIENCE) throw new Error('no batch came of the shapes that it was compiled for');
      return null;
    }
    if (p.verified === null && !p.loadedExclusively && !this.#trusted(p, shape)) return p.decision.changes;
    if (p.due === null || step >= p.due) this.#swap(p, step);
    return null;
  }

  #load(p: Pending, step: number): void {
    if (p.loaded || !p.ready || p.error !== null || step < p.notBefore) return;
    p.loadedExclusively = p.due !== null && step >= p.due && p.tolerance === Infinity;
    try {
      p.prepared?.load(p.loadedExclusively);
      p.loaded = true;
    } catch (error) {
      if (p.class === 'N' && ++p.tries <= RETRIES) p.notBefore = step + WAIT;
      // Where nothing is compared but that numbers are finite, it may come without having run beside the old plan.
      else if (p.due === null || step >= p.due || p.tolerance !== Infinity) p.error = asError(error);
    }
  }

  /** While a step runs on the device: tracing and lowering cost the least then. */
  during(): void {
    const p = this.#pending;
    if (p && !p.prepared && p.error === null) this.#prepare(p);
  }

  #prepare(
    p: Pending,
    prepare = (changes: readonly Change[]) => this.#plant.prepare(changes) as Prepared | null,
  ): void {
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

  /** After a step. `compared`: of a plan that ran beside. */
  async end(own: Shown, compared: Comparison | null): Promise<void> {
    let shown = own;
    try {
      shown = await this.#agreement.reduceStats(own);
    } catch (error) {
      const failed = asError(error);
      if (this.#pending) this.#fail(this.#pending, failed);
      else this.#sayOnce(this.rules.join(', '), `statistics ` + `were not agreed on: ${messageOf(failed)}`);
    }
    this.stats.show(shown);
    const p = this.#pending;
    if (!p) return;
    // What a step took beyond the usual while a compiler ran beside it is part of the price.
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

  /**
   * After a step, however it ended: between steps, evaluation, generation and checkpoints find the plan that was
   * decided on.
   */
  settle(): void {
    this.#take('old');
  }

  /** The run ends: what is under way is forgotten, and its compiler's answer with it. */
  close(): void {
    this.settle();
    this.#pending = null;
  }

  #ask(step: number, first = this.#pending?.class === 'R'): void {
    const rival = this.#rival(),
      names = this.rules.join(', ');
    this.#guarded(
      step,
      () => this.#pending?.decision.rule ?? names,
      () => {
        const asked = this.#rules.ask(
          this.#plant,
          this.stats,
          first ? 'first' : this.busy || rival?.busy === true,
          (f) => {
            this.#tell(step, f);
          },
        );
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

  /** Whatever fails in `work` costs no step: it is told in the name of a rule. */
  #guarded(step: number, rule: () => string, work: () => void): void {
    try {
      work();
    } catch (error) {
      this.#tell(step, { rule: rule(), class: null, changes: [], reason: '', error: asError(error), last: false });
    }
  }

  /** Before there is a plan: nothing to compare with, nothing to wait for. */
  #atOnce({ rule, changes, decided, reason, class: klass }: Asked, step: number): void {
    if (this.#pending?.class === 'N') this.giveWay(rule.name);
    this.#rival()?.giveWay(rule.name);
    const decision: Decision = { step, effect: step, rule: rule.name, changes, ...(decided && { decided }) },
      p = new Pending(decision, klass, reason, Infinity, this.#bytes());
    this.#plant.knobs.apply(changes);
    p.effect = step;
    // the last is the one that is pending
    if (klass === 'R') this.#log.splice(this.#pending ? -1 : this.#log.length, 0, decision);
    this.#inForce(p);
    this.#emit({ ...p.event(true), after: { ms: null, bytes: this.#bytes() } });
  }

  /** Before a change of results, which waits for nobody. */
  giveWay(rule: string): void {
    if (this.#pending) this.#fail(this.#pending, new Error(`a change of results came ` + `between: ${rule}`), false);
  }

  /**
   * Of no result: settings that had the bits of others once, for batches of a shape, need not show it again. A change
   * of results by which kernels that ran before run on other sizes has nothing that could be compared bit by bit: new
   * is a plan of memory, which is checked where it is made (plan/verify.ts); one that moves values is always run dry.
   * How far it moves the loss follows from the parameters of now: where that is bounded, it is measured each time.
   */
  #trusted(p: Pending, shape: string): boolean {
    const running = this.#plant.kernels(),
      kernels = p.prepared?.kernels(shape) ?? null;
    if (running !== null) this.#verifies(running);
    if (p.class === 'N') return this.#verified.has(this.#keyOf(p));
    return (
      kernels !== null &&
      p.tolerance === Infinity &&
      this.#verified.has(kernels) &&
      this.#plant.knobs.moves(p.decision.changes).length === 0
    );
  }

  /** What was forgotten is shown once more. */
  #verifies(what: string): void {
    keepRecent(this.#verified, what, true, VERIFIED);
  }

  #keyOf({ decision }: Pending): string {
    return `${this.#plant.knobs.with(decision.changes, () => this.#plant.knobs.key())} ${this.#plant.shape()}`;
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
        ? (c.differs ?? 'a result ' + 'differs')
        : `loss ${c.dryLoss} against ${c.loss}`;
    p.error = new Error(`the new plan does not agree with the old one: ${what}`);
  }

  #swap(p: Pending, step: number): void {
    const { rule, changes } = p.decision;
    if (!p.loadedExclusively) p.verified = true;
    if (p.class === 'N') this.#verifies(this.#keyOf(p));
    const kernels = p.prepared?.kernels(this.#plant.shape()) ?? null;
    if (kernels !== null) this.#verifies(kernels);
    if (p.class === 'N' && (this.#rules.get(rule)?.measure ?? true)) {
      p.trial = new Trial(this.#plant.shape());
      p.effect = step;
      this.#turns(p.trial);
      return;
    }
    const takeBack = this.#plant.carry(changes);
    try {
      this.#plant.knobs.apply(changes);
    } catch (error) {
      takeBack();
      throw error;
    }
    p.effect = step;
    this.#inForce(p);
    this.#close(p, true);
  }

  /** Its changes were applied, and stay. */
  #inForce({ class: klass, decision: { rule, changes, decided = changes, back } }: Pending): void {
    if (klass === 'N') {
      this.#plant.knobs.becameNeutral(changes);
      return;
    }
    this.#plant.knobs.becameDeterministic(decided);
    this.#rules.took(rule, decided, back ?? false);
  }

  /** Whose turn the next step is. */
  #turns(trial: Trial): void {
    this.#timed = trial.shape === this.#plant.shape();
    if (this.#timed) this.#take(trial.next);
    else if (trial.countMismatch() > PATIENCE) throw new Error('too few batches came of the shape that was measured');
  }

  #take(turn: 'old' | 'new'): void {
    const p = this.#pending;
    if (turn === 'old') {
      this.#back?.();
      this.#back = null;
    } else if (p?.trial) this.#back ??= this.#plant.knobs.apply(p.decision.changes);
  }

  #conclude(p: Pending, trial: Trial): void {
    this.#take('old');
    const kept = trial.ratio.high >= 1;
    if (kept) {
      this.#plant.knobs.apply(p.decision.changes);
      this.#inForce(p);
    }
    this.#rules.measured(p.decision.rule, kept);
    this.#close(p, kept);
  }

  #close(p: Pending, kept: boolean, error?: string): void {
    this.#pending = null;
    if (kept) this.#plant.trim();
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
    const bytes = this.#bytes();
    this.#emit({
      event: 'recompile',
      step,
      effect: null,
      rule,
      class: klass,
      reason,
      changes,
      cached: false,
      compile_ms: 0,
      verify_ms: 0,
      stall_ms: 0,
      verified: null,
      kept: false,
      before: { ms: null, bytes },
      after: { ms: null, bytes },
      error: `${messageOf(error)}${last ? `; after ` + `${STRIKES} failures the rule is left out` : ''}`,
    });
  }

  #bytes(): number {
    try {
      return this.#plant.bytes();
    } catch {
      return 0;
    } // a model that cannot be traced any more: the step says so
  }

  state(): EngineState {
    const p = this.#pending,
      { knobs } = this.#plant,
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
    if (state) this.#plant.knobs.restore(state.knobs, state.decided); // which may refuse
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
    this.#log[at] = decision; // the last of the log
    this.#pending = new Pending(decision, 'R', reason, tolerance ?? Infinity, this.#bytes());
    this.#pending.verified = verified;
  }
}
