// Which rule has something to change now. In: rules, what the run has shown; out: changes with their class, or what
// went wrong in a rule. Rules that may change results are asked at every boundary until a change of results is under
// way, whatever else is: so that their decisions fall on the same steps in every run, however fast compilers and clocks
// are. Cooldowns and budgets are kept by class for the same reason; and what changes of no result have set is put back
// while such a rule looks (decided.ts).
import type { RunStats } from '../observe/run-stats.ts';
import type { Change, ChangeClass } from '../trace/knobs.ts';
import { asError } from './pending.ts';
import type { EngineHost } from './engine-host.ts';
import type { Draft } from './draft.ts';
import { revertNeutral, rebaseOntoCurrent, toDeterministic } from './deterministic.ts';
import type { Outlook, Rule } from './rule.ts';

const COOLDOWN = 100;
/** Exceptions in a row until a rule is left out. */
export const STRIKES = 3;

export interface Past {
  readonly last: number;
  readonly count: number;
  readonly strikes: number;
  /** Changes in a row that did not pay. */ readonly undone?: number;
}
export interface Asked {
  readonly rule: Rule<object>;
  readonly class: ChangeClass;
  readonly changes: readonly Change[];
  readonly reason: string;
  readonly back: boolean;
  readonly atOnce: boolean;
  /**
   * Of a change of results: the same from the decided settings, where those of now are others.
   */ readonly decided?: readonly Change[];
}
interface Answers {
  readonly undo: () => boolean;
  readonly trigger: () => boolean;
}
/** class null: nothing. */
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
/** What failed in a rule's own code. */
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
  /** Of changes of no result. */
  readonly #neutral = new Map<string, Past>();
  /** Changes of results that may be taken back, by rule. */
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
   * The first rule in order that changes results, or else the first that changes something: a change of results does
   * not wait for one of no result, which may be under way or not by the clock. `busy`: one is, and another has to wait;
   * 'first': all have to but those that are asked before a first step. What a rule that is asked before the first step
   * changes then comes before all others.
   */
  ask(plant: EngineHost, stats: RunStats, busy: boolean | 'first', fault: (f: Fault) => void): Asked | null {
    // asked for the rules that want to know alone: it looks at all plans of the next step
    let ready: boolean | undefined;
    let first: Asked | null = null;
    for (const [name, rule] of this.#rules) {
      const past = this.#past.get(name) ?? NEVER;
      try {
        const atOnce = rule.first === true && !(ready ??= plant.ready());
        if (busy === 'first' && !atOnce) continue;
        const asked = this.#askOne(name, rule, plant, stats, { atOnce, busy: busy !== false || first !== null }, fault);
        if (asked === null) continue;
        if (asked.class === 'R' || asked.atOnce) return asked;
        first = asked;
      } catch (error) {
        this.#failed(
          this.#past,
          plant.next(),
          { class: null, changes: [], reason: name, back: false, error: asError(error), rule: name, past },
          fault,
        );
      }
    }
    return first && this.#counted(this.#neutral, first, plant.next());
  }

  /** A change of no result that is not for at once is not counted yet: one of results may come after it. */
  #askOne(
    name: string,
    rule: Rule<object>,
    plant: EngineHost,
    stats: RunStats,
    { atOnce, busy }: { readonly atOnce: boolean; readonly busy: boolean },
    fault: (f: Fault) => void,
  ): Asked | null {
    const step = plant.next(),
      { knobs } = plant,
      { cooldown = COOLDOWN, budget = Infinity } = rule;
    const past = this.#past.get(name) ?? NEVER,
      neutral = this.#neutral.get(name) ?? NEVER;
    if (past.strikes >= STRIKES || (step - past.last < cooldown && !atOnce) || past.count >= budget) return null;
    const waits =
      neutral.strikes >= STRIKES ||
      (!atOnce &&
        (busy || step - neutral.last < cooldown * 2 ** (neutral.undone ?? 0) || past.count + neutral.count >= budget));
    if (waits && rule.only === 'N') return null;
    const says = answersOf(rule, stats),
      back = rule.only === 'N' ? [] : toDeterministic(knobs);
    stats.clockWasRead();
    let found = knobs.with(back, () => this.#found(rule, says, plant, stats, atOnce));
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
      // Nothing that must be the same in every run: now by the settings of this one.
      const decided = found;
      found = this.#found(rule, says, plant, stats, atOnce);
      if (fails(found)) {
        this.#failed(this.#neutral, step, { ...found, rule: name, past: neutral }, fault);
        return null;
      }
      // Where there is no plan to go on with, what it needs of the decided settings will do.
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

  /** A strike of a rule, whose cooldown begins again. */
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

  /** What a rule wants to change under the settings of now, which the modules have while it is asked. */
  #found(rule: Rule<object>, says: Answers, plant: EngineHost, stats: RunStats, first: boolean): Found {
    return plant.knobs.onModules(() => this.#foundOn(rule, says, plant, stats, first));
  }

  #foundOn(rule: Rule<object>, says: Answers, plant: EngineHost, stats: RunStats, first: boolean): Found {
    const { knobs } = plant;
    let found: Found = { class: null, changes: [], reason: rule.name, back: false, error: null };
    try {
      found = { ...found, ...this.#changes(rule, says, plant, stats, first) };
      found = { ...found, changes: knobs.settled(found.changes) }; // setters refuse what cannot be
      if (found.changes.length === 0) return found;
      // and values that cannot go along
      if (knobs.moves(found.changes).length > 0 && first)
        throw new Error('a change that moves values is not for ' + 'before there is a plan: leave out `first`');
      found = { ...found, class: knobs.classify(found.changes) };
      if (found.class === 'R' && rule.only !== 'N' && stats.clockWasRead())
        throw new Error(
          'a rule that reads a ' + 'clock (run.ms) may not change results: the run could not be repeated',
        );
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
    plant: EngineHost,
    stats: RunStats,
    first: boolean,
  ): { changes: readonly Change[]; reason: string; back: boolean } {
    const inForce = this.#inForce.get(rule.name);
    if (inForce && !first && says.undo()) {
      // What somebody else has changed since is left to them.
      const still = inForce.filter(
        (c) => JSON.stringify(plant.knobs.settings(c.path)[c.knob]) === JSON.stringify(c.to),
      );
      return { changes: still.map((c) => ({ ...c, from: c.to, to: c.from })), reason: 'taken back', back: true };
    }
    if (!says.trigger() && !first) return { changes: [], reason: rule.name, back: false };
    const draft = plant.draft();
    answer(
      'alter',
      rule.alter(draft.model as never, stats, this.#outlook(plant, draft, stats, first, rule.only === 'N')) as unknown,
    );
    const changes = draft.changes();
    return {
      changes,
      reason: changes.length > 0 ? String(answer('reason', rule.reason?.(stats)) ?? rule.name) : rule.name,
      back: false,
    };
  }

  #outlook(plant: EngineHost, draft: Draft<object>, stats: RunStats, first: boolean, neutral: boolean): Outlook {
    return {
      first,
      session: neutral ? null : (draft.session ?? null),
      fixed: plant.budget().given,
      rules: this.names,
      initial: (path) => plant.knobs.initial(path),
      bytes: () => plant.needs(draft.changes()),
      budget() {
        const { bytes, given } = plant.budget();
        if (!given) stats.readClock();
        return bytes;
      },
    };
  }

  /** A change of results came into force. */
  took(rule: string, changes: readonly Change[], back: boolean): void {
    if (back) this.#inForce.delete(rule);
    else this.#inForce.set(rule, changes);
  }

  /**
   * A change of no result was kept, or undone because it did not pay: the rule then waits twice as long as the last
   * time.
   */
  measured(rule: string, kept: boolean): void {
    const past = this.#neutral.get(rule) ?? NEVER;
    this.#neutral.set(rule, { ...past, undone: kept ? 0 : (past.undone ?? 0) + 1 });
  }

  state(): RulesState {
    return { rules: Object.fromEntries(this.#past), neutral: Object.fromEntries(this.#neutral) };
  }

  /** Nothing is in force then: `took` tells what is. */
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

/** A rule is asked once at a boundary, however often it alters. */
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

/** An answer that is neither (a forgotten return, a count) would be taken for one of them. */
function yesOrNo(what: string, given: unknown): boolean {
  const said = answer(what, given);
  if (typeof said === 'boolean') return said;
  throw new Error(
    `${what} must answer true or false, got ` +
      `${said === undefined ? 'nothing (undefined)' : (JSON.stringify(said) ?? typeof said)}`,
  );
}

const fails = (found: Found): found is Found & { readonly error: Error } => found.error !== null;

/** A promise is no answer, and one that fails later would end the process. */
function answer<T>(what: string, given: T): T {
  if (typeof given !== 'object' || given === null || !('then' in given)) return given;
  Promise.resolve(given).catch(() => undefined);
  throw new Error(`${what} must give its answer at once, not a promise`);
}
