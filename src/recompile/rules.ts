// Which rule has something to change now. In: rules, statistics of the run; out: changes with their class, or the error
// of a rule. Class N: results stay the same, bit by bit. Class R: results change.
//
// Decisions of class R must fall on the same steps in every run, however fast compilers and clocks are. So rules that
// may change results are asked at every step boundary until a change of class R is under way, also while a change of
// class N is. For the same reason cooldowns and budgets are counted for each class on its own, and while such a rule is
// asked, knobs have the values that they would have without any change of class N (deterministic.ts).
import { asError } from '../base/errors.ts';
import type { RunStats } from '../observe/run-stats.ts';
import type { Change, ChangeClass } from '../trace/knobs.ts';
import type { EngineHost } from './engine-host.ts';
import type { Draft } from './draft.ts';
import { revertNeutral, rebaseOntoCurrent, toDeterministic } from './deterministic.ts';
import type { Outlook, Rule } from './rule.ts';

const COOLDOWN = 100;
/** After this many failures in a row a rule is asked no more. */
export const STRIKES = 3;

/**
 * Which changes may begin at this step boundary. 'any': no recompilation is under way. 'onlyR': one of class N is, so
 * another of class N has to wait. 'onlyBeforeFirstPlan': one of class R is, so only rules with `first` are asked, and
 * only where there is no plan yet for the next batch.
 */
export type Admitted = 'any' | 'onlyR' | 'onlyBeforeFirstPlan';

/** What a rule did so far, in one class. */
export interface Past {
  readonly last: number;
  readonly count: number;
  readonly strikes: number;
  /** Changes in a row that were undone because they were slower. */
  readonly undone?: number;
}
/** What a rule wants to change. */
export interface Asked {
  readonly rule: Rule<object>;
  readonly class: ChangeClass;
  readonly changes: readonly Change[];
  readonly reason: string;
  /** Whether an earlier change of this rule is taken back. */
  readonly back: boolean;
  /** Whether it is applied before there is a first plan, so that there is nothing to compare with. */
  readonly atOnce: boolean;
  /**
   * Class R: the same change, from the settings that do not depend on clocks, where the current settings differ from
   * those.
   */
  readonly decided?: readonly Change[];
}
interface Answers {
  readonly undo: () => boolean;
  readonly trigger: () => boolean;
}
/** What one call of a rule gave. class null: nothing to change. */
interface Found {
  readonly class: ChangeClass | null;
  readonly changes: readonly Change[];
  readonly reason: string;
  readonly back: boolean;
  readonly error: Error | null;
}
interface Failed extends Found {
  readonly rule: string;
  readonly past: Past;
  readonly error: Error;
}
/** A failure in a rule's own code. last: the rule is asked no more. */
export interface Fault {
  readonly rule: string;
  readonly class: ChangeClass | null;
  readonly changes: readonly Change[];
  readonly reason: string;
  readonly error: Error;
  readonly last: boolean;
}
export interface RulesState {
  readonly rules: Readonly<Record<string, Past>>;
  readonly neutral: Readonly<Record<string, Past>>;
}

const NEVER: Past = { last: -Infinity, count: 0, strikes: 0 };

export class Rules {
  readonly #rules = new Map<string, Rule<object>>();
  readonly #past = new Map<string, Past>();
  /** `#past` is for class R, this for class N. */
  readonly #neutral = new Map<string, Past>();
  /** Changes of class R that are in force and may be taken back, by rule. */
  readonly #inForce = new Map<string, readonly Change[]>();

  add(rule: Rule<object>): void {
    this.#rules.set(rule.name, rule);
  }
  get(name: string): Rule<object> | undefined {
    return this.#rules.get(name);
  }
  get names(): string[] {
    return [...this.#rules.keys()];
  }

  /**
   * Gives the first change of class R, in the order of rules, or else the first change of class N: whether a change of
   * class N is under way depends on clocks, so a change of class R does not wait for it. A change that a rule makes
   * before the first plan comes before all others.
   */
  ask(host: EngineHost, stats: RunStats, admitted: Admitted, fault: (f: Fault) => void): Asked | null {
    // Computed only if a rule has `first`: it looks at all plans of the next step.
    let ready: boolean | undefined;
    let first: Asked | null = null;
    for (const [name, rule] of this.#rules) {
      const past = this.#past.get(name) ?? NEVER;
      try {
        const atOnce = rule.first === true && !(ready ??= host.ready());
        if (admitted === 'onlyBeforeFirstPlan' && !atOnce) continue;
        const onlyR = admitted !== 'any' || first !== null,
          asked = this.#askOne(name, rule, host, stats, { atOnce, onlyR }, fault);
        if (asked === null) continue;
        if (asked.class === 'R' || asked.atOnce) return asked;
        first = asked;
      } catch (error) {
        this.#failed(
          this.#past,
          host.next(),
          { class: null, changes: [], reason: name, back: false, error: asError(error), rule: name, past },
          fault,
        );
      }
    }
    return first && this.#counted(this.#neutral, first, host.next());
  }

  /**
   * Does not count a change of class N unless it is `atOnce`: a later rule may have one of class R, which comes first.
   */
  #askOne(
    name: string,
    rule: Rule<object>,
    host: EngineHost,
    stats: RunStats,
    { atOnce, onlyR }: { readonly atOnce: boolean; readonly onlyR: boolean },
    fault: (f: Fault) => void,
  ): Asked | null {
    const step = host.next(),
      { knobs } = host,
      { cooldown = COOLDOWN, budget = Infinity } = rule;
    const past = this.#past.get(name) ?? NEVER,
      neutral = this.#neutral.get(name) ?? NEVER;
    if (past.strikes >= STRIKES || (step - past.last < cooldown && !atOnce) || past.count >= budget) return null;
    const waits =
      neutral.strikes >= STRIKES ||
      (!atOnce &&
        (onlyR || step - neutral.last < cooldown * 2 ** (neutral.undone ?? 0) || past.count + neutral.count >= budget));
    if (waits && rule.only === 'N') return null;
    const says = answersOf(rule, stats),
      back = rule.only === 'N' ? [] : toDeterministic(knobs);
    stats.clockWasRead();
    let found = knobs.with(back, () => this.#found(rule, says, host, stats, atOnce));
    if (fails(found)) {
      this.#failed(this.#past, step, { ...found, rule: name, past }, fault);
      return null;
    }
    if (found.class === 'N' && past.strikes > 0) this.#past.set(name, { ...past, strikes: 0 });
    if (found.class === 'R' && rule.only !== 'N') {
      const changes = rebaseOntoCurrent(knobs, found.changes, back),
        same = JSON.stringify(changes) === JSON.stringify(found.changes);
      return this.#counted(
        this.#past,
        { ...found, rule, atOnce, class: 'R', changes, ...(!same && { decided: found.changes }) },
        step,
      );
    }
    if (back.length > 0 && !waits) {
      // A change of class N need not be the same in every run: the rule is asked again about the current settings.
      const decided = found;
      found = this.#found(rule, says, host, stats, atOnce);
      if (fails(found)) {
        this.#failed(this.#neutral, step, { ...found, rule: name, past: neutral }, fault);
        return null;
      }
      // Before the first plan the change of class N, found on the deterministic settings, is taken after all.
      if (found.class === 'R' && atOnce)
        found = { ...decided, class: 'N', changes: revertNeutral(knobs, decided.changes, back) };
    }
    if (found.class === 'R') {
      this.#neutral.set(name, { ...neutral, last: step });
      return null;
    }
    if (found.class === null || waits) return null;
    const asked: Asked = { ...found, rule, atOnce, class: 'N' };
    return atOnce ? this.#counted(this.#neutral, asked, step) : asked;
  }

  /** Counts a failure of a rule; its cooldown begins again. */
  #failed(
    own: Map<string, Past>,
    step: number,
    { rule, class: klass, changes, reason, error, past }: Failed,
    fault: (f: Fault) => void,
  ): void {
    const { last: _, count, strikes, ...rest } = past;
    own.set(rule, { last: step, count, strikes: strikes + 1, ...rest });
    fault({ rule, class: klass, changes, reason, error, last: strikes + 1 >= STRIKES });
  }

  /** What a rule wants to change. While it is asked, the model's modules have the current settings of the session. */
  #found(rule: Rule<object>, says: Answers, host: EngineHost, stats: RunStats, first: boolean): Found {
    return host.knobs.onModules(() => this.#foundOn(rule, says, host, stats, first));
  }

  #foundOn(rule: Rule<object>, says: Answers, host: EngineHost, stats: RunStats, first: boolean): Found {
    const { knobs } = host;
    let found: Found = { class: null, changes: [], reason: rule.name, back: false, error: null };
    try {
      found = { ...found, ...this.#changes(rule, says, host, stats, first) };
      found = { ...found, changes: knobs.settled(found.changes) }; // throws where a setter refuses a value
      if (found.changes.length === 0) return found;
      // `moves` throws where parameter values cannot be moved.
      if (knobs.moves(found.changes).length > 0 && first)
        throw new Error('a change that moves parameter values cannot be made before the first plan: leave out `first`');
      found = { ...found, class: knobs.classify(found.changes) };
      if (found.class === 'R' && rule.only !== 'N' && stats.clockWasRead())
        throw new Error('a rule that reads a clock (run.ms) may not change results: the run could not be repeated');
      return found;
    } catch (error) {
      return { ...found, error: asError(error) };
    }
  }

  #counted(own: Map<string, Past>, asked: Asked, step: number): Asked {
    const { name } = asked.rule;
    own.set(name, { ...own.get(name), last: step, count: (own.get(name)?.count ?? 0) + 1, strikes: 0 });
    return asked;
  }

  #changes(
    rule: Rule<object>,
    says: Answers,
    host: EngineHost,
    stats: RunStats,
    first: boolean,
  ): { changes: readonly Change[]; reason: string; back: boolean } {
    const inForce = this.#inForce.get(rule.name);
    if (inForce && !first && says.undo()) {
      // Knobs that something else has changed since are left as they are.
      const still = inForce.filter((c) => JSON.stringify(host.knobs.settings(c.path)[c.knob]) === JSON.stringify(c.to));
      return { changes: still.map((c) => ({ ...c, from: c.to, to: c.from })), reason: 'taken back', back: true };
    }
    if (!says.trigger() && !first) return { changes: [], reason: rule.name, back: false };
    const draft = host.draft();
    answer(
      'alter',
      rule.alter(draft.model as never, stats, this.#outlook(host, draft, stats, first, rule.only === 'N')) as unknown,
    );
    const changes = draft.changes();
    return {
      changes,
      reason: changes.length > 0 ? String(answer('reason', rule.reason?.(stats)) ?? rule.name) : rule.name,
      back: false,
    };
  }

  #outlook(host: EngineHost, draft: Draft<object>, stats: RunStats, first: boolean, neutral: boolean): Outlook {
    return {
      first,
      session: neutral ? null : (draft.session ?? null),
      fixed: host.budget().given,
      rules: this.names,
      initial: (path) => host.knobs.initial(path),
      bytes: () => host.needs(draft.changes()),
      budget() {
        const { bytes, given } = host.budget();
        if (!given) stats.readClock();
        return bytes;
      },
    };
  }

  /** Records that a change of class R took effect. */
  took(rule: string, changes: readonly Change[], back: boolean): void {
    if (back) this.#inForce.delete(rule);
    else this.#inForce.set(rule, changes);
  }

  /**
   * Records whether a change of class N was kept, or undone because it was slower: then the rule waits twice as long.
   */
  measured(rule: string, kept: boolean): void {
    const past = this.#neutral.get(rule) ?? NEVER;
    this.#neutral.set(rule, { ...past, undone: kept ? 0 : (past.undone ?? 0) + 1 });
  }

  state(): RulesState {
    return { rules: Object.fromEntries(this.#past), neutral: Object.fromEntries(this.#neutral) };
  }

  /** Afterwards no change counts as in force; the caller records those that are with `took`. */
  restore({ rules, neutral }: RulesState): void {
    this.#inForce.clear();
    for (const [own, saved] of [
      [this.#past, rules],
      [this.#neutral, neutral],
    ] as const) {
      own.clear();
      for (const [name, past] of Object.entries(saved)) own.set(name, { ...past });
    }
  }
}

/** The rule's `undo` and `trigger`, each called at most once at a step boundary, though `alter` may be called twice. */
function answersOf(rule: Rule<object>, stats: RunStats): Answers {
  const once = (what: string, ask: () => unknown): (() => boolean) => {
    let said: boolean | null = null;
    return () => (said ??= yesOrNo(what, ask()));
  };
  return {
    undo: once('undo', () => (rule.undo ? rule.undo(stats) : false)),
    trigger: once('trigger', () => rule.trigger(stats)),
  };
}

/** Throws for an answer that is no boolean, such as that of a function without `return`. */
function yesOrNo(what: string, given: unknown): boolean {
  const said = answer(what, given);
  if (typeof said === 'boolean') return said;
  throw new Error(
    `${what} must answer true or false, got ` +
      `${said === undefined ? 'nothing (undefined)' : (JSON.stringify(said) ?? typeof said)}`,
  );
}

const fails = (found: Found): found is Found & { readonly error: Error } => found.error !== null;

/** Throws for a promise, whose later rejection would end the process if nothing caught it. */
function answer<T>(what: string, given: T): T {
  if (typeof given !== 'object' || given === null || !('then' in given)) return given;
  Promise.resolve(given).catch(() => undefined);
  throw new Error(`${what} must give its answer at once, not a promise`);
}
