// Which rule has something to change now. In: rules, what the run has shown; out: changes with their class, or what went wrong in a rule.
// Rules that may change results are asked at every boundary until a change of results is under way, whatever else is: so that their
// decisions fall on the same steps in every run, however fast compilers and clocks are. Cooldowns and budgets are kept by class for the
// same reason; and what changes of no result have set is put back while such a rule looks (decided.ts).
import type { RunStats } from '../observe/run-stats.ts';
import type { Change, ChangeClass } from '../trace/knobs.ts';
import { asError } from './pending.ts';
import type { Plant } from './plant.ts';
import type { Draft } from './draft.ts';
import { allBack, ontoNow, toDecided } from './decided.ts';
import type { Outlook, Rule } from './rule.ts';

const COOLDOWN = 100;
/** Exceptions in a row until a rule is left out. */
export const STRIKES = 3;

export interface Past { readonly last: number; readonly count: number; readonly strikes: number; /** Changes in a row that did not pay. */ readonly undone?: number }
export interface Asked { readonly rule: Rule<object>; readonly class: ChangeClass; readonly changes: readonly Change[]; readonly reason: string; readonly back: boolean; readonly atOnce: boolean;
  /** Of a change of results: the same from the decided settings, where those of now are others. */ readonly decided?: readonly Change[] }
interface Answers { readonly undo: () => boolean; readonly trigger: () => boolean }
/** class null: nothing. */
interface Found { readonly class: ChangeClass | null; readonly changes: readonly Change[]; readonly reason: string; readonly back: boolean; readonly error: Error | null }
/** What failed in a rule's own code. */
export interface Fault { readonly rule: string; readonly class: ChangeClass | null; readonly changes: readonly Change[]; readonly reason: string; readonly error: Error; readonly last: boolean }
export interface RulesState { readonly rules: Readonly<Record<string, Past>>; readonly neutral: Readonly<Record<string, Past>> }

const NEVER: Past = { last: -Infinity, count: 0, strikes: 0 };

export class Rules {
  readonly #rules = new Map<string, Rule<object>>();
  readonly #past = new Map<string, Past>();
  /** Of changes of no result. */
  readonly #neutral = new Map<string, Past>();
  /** Changes of results that may be taken back, by rule. */
  readonly #inForce = new Map<string, readonly Change[]>();

  add(rule: Rule<object>): void { this.#rules.set(rule.name, rule); }
  get(name: string): Rule<object> | undefined { return this.#rules.get(name); }
  get names(): string[] { return [...this.#rules.keys()]; }

  /**
   * The first rule in order that changes results, or else the first that changes something: a change of results does not wait for one of
   * no result, which may be under way or not by the clock. `busy`: one is,
   * and another has to wait; 'first': all have to but those that are asked before a first step. What a rule that is asked before the first
   * step changes then comes before all others.
   */
  ask(plant: Plant, stats: RunStats, busy: boolean | 'first', fault: (f: Fault) => void): Asked | null {
    const step = plant.next(), { knobs } = plant;
    let ready: boolean | undefined; // asked for the rules that want to know alone: it looks at all plans of the next step
    let first: Asked | null = null;
    for (const rule of this.#rules.values()) {
      const { name, cooldown = COOLDOWN, budget = Infinity } = rule, past = this.#past.get(name) ?? NEVER, neutral = this.#neutral.get(name) ?? NEVER;
      const atOnce = rule.first === true && !(ready ??= plant.ready());
      if (busy === 'first' && !atOnce) continue;
      if (past.strikes >= STRIKES || (step - past.last < cooldown && !atOnce) || past.count >= budget) continue;
      const waits = neutral.strikes >= STRIKES
        || (!atOnce && (busy !== false || first !== null || step - neutral.last < cooldown * 2 ** (neutral.undone ?? 0) || past.count + neutral.count >= budget));
      if (waits && rule.only === 'N') continue;
      const failed = (own: Map<string, Past>, { last: _, count, strikes, ...rest }: Past, { error, class: klass, changes, reason }: Found & { readonly error: Error }): void => {
        own.set(name, { last: step, count, strikes: strikes + 1, ...rest });
        fault({ rule: name, class: klass, changes, reason, error, last: strikes + 1 >= STRIKES });
      };
      const says = answersOf(rule, stats), back = rule.only === 'N' ? [] : toDecided(knobs);
      stats.clockWasRead();
      let found = knobs.with(back, () => this.#found(rule, says, plant, stats, atOnce));
      if (fails(found)) { failed(this.#past, past, found); continue; }
      if (found.class === 'N' && past.strikes > 0) this.#past.set(name, { ...past, strikes: 0 });
      if (found.class === 'R' && rule.only !== 'N') {
        const changes = ontoNow(knobs, found.changes, back), same = JSON.stringify(changes) === JSON.stringify(found.changes);
        return this.#counted(this.#past, { ...found, rule, atOnce, class: 'R', changes, ...(!same && { decided: found.changes }) }, step);
      }
      if (back.length > 0 && !waits) {
        // Nothing that must be the same in every run: now by the settings of this one.
        const decided = found;
        found = this.#found(rule, says, plant, stats, atOnce);
        if (fails(found)) { failed(this.#neutral, neutral, found); continue; }
        // Where there is no plan to go on with, what it needs of the decided settings will do.
        if (found.class === 'R' && atOnce) found = { ...decided, class: 'N', changes: allBack(knobs, decided.changes, back) };
      }
      if (found.class === 'R') { this.#neutral.set(name, { ...neutral, last: step }); continue; }
      if (found.class === null || waits) continue;
      const asked: Asked = { ...found, rule, atOnce, class: 'N' };
      if (atOnce) return this.#counted(this.#neutral, asked, step);
      first = asked;
    }
    return first && this.#counted(this.#neutral, first, step);
  }

  /** What a rule wants to change under the settings of now. */
  #found(rule: Rule<object>, says: Answers, plant: Plant, stats: RunStats, first: boolean): Found {
    const { knobs } = plant;
    let found: Found = { class: null, changes: [], reason: rule.name, back: false, error: null };
    try {
      found = { ...found, ...this.#changes(rule, says, plant, stats, first) };
      found = { ...found, changes: knobs.settled(found.changes) }; // setters refuse what cannot be
      if (found.changes.length === 0) return found;
      if (knobs.moves(found.changes).length > 0 && first) throw new Error('a change that moves values is not for before there is a plan: leave out `first`'); // and values that cannot go along
      found = { ...found, class: knobs.classify(found.changes) };
      if (found.class === 'R' && rule.only !== 'N' && stats.clockWasRead()) throw new Error('a rule that reads a clock (run.ms) may not change results: the run could not be repeated');
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

  #changes(rule: Rule<object>, says: Answers, plant: Plant, stats: RunStats, first: boolean): { changes: readonly Change[]; reason: string; back: boolean } {
    const inForce = this.#inForce.get(rule.name);
    if (inForce && !first && says.undo()) {
      // What somebody else has changed since is left to them.
      const still = inForce.filter((c) => JSON.stringify(plant.knobs.settings(c.path)[c.knob]) === JSON.stringify(c.to));
      return { changes: still.map((c) => ({ ...c, from: c.to, to: c.from })), reason: 'taken back', back: true };
    }
    if (!says.trigger() && !first) return { changes: [], reason: rule.name, back: false };
    const draft = plant.draft();
    answer('alter', rule.alter(draft.model as never, stats, this.#outlook(plant, draft, stats, first, rule.only === 'N')) as unknown);
    const changes = draft.changes();
    return { changes, reason: changes.length > 0 ? String(rule.reason?.(stats) ?? rule.name) : rule.name, back: false };
  }

  #outlook(plant: Plant, draft: Draft<object>, stats: RunStats, first: boolean, neutral: boolean): Outlook {
    return { first, session: neutral ? null : draft.session ?? null, fixed: plant.budget().given, rules: this.names, initial: (path) => plant.knobs.initial(path), bytes: () => plant.needs(draft.changes()), budget() {
      const { bytes, given } = plant.budget();
      if (!given) stats.readClock();
      return bytes;
    } };
  }

  /** A change of results came into force. */
  took(rule: string, changes: readonly Change[], back: boolean): void {
    if (back) this.#inForce.delete(rule); else this.#inForce.set(rule, changes);
  }

  /** A change of no result was kept, or undone because it did not pay: the rule then waits twice as long as the last time. */
  measured(rule: string, kept: boolean): void {
    const past = this.#neutral.get(rule) ?? NEVER;
    this.#neutral.set(rule, { ...past, undone: kept ? 0 : (past.undone ?? 0) + 1 });
  }

  state(): RulesState { return { rules: Object.fromEntries(this.#past), neutral: Object.fromEntries(this.#neutral) }; }

  /** Nothing is in force then: `took` tells what is. */
  restore({ rules, neutral }: RulesState): void {
    this.#inForce.clear();
    for (const [own, saved] of [[this.#past, rules], [this.#neutral, neutral]] as const) {
      own.clear();
      for (const [name, past] of Object.entries(saved)) own.set(name, { ...past });
    }
  }
}

/** A rule is asked once at a boundary, however often it alters. */
function answersOf(rule: Rule<object>, stats: RunStats): Answers {
  const once = (what: string, ask: () => boolean | undefined): (() => boolean) => {
    let said: boolean | null = null;
    return () => (said ??= Boolean(answer(what, ask())));
  };
  return { undo: once('undo', () => rule.undo?.(stats)), trigger: once('trigger', () => rule.trigger(stats)) };
}

const fails = (found: Found): found is Found & { readonly error: Error } => found.error !== null;

/** A promise is no answer, and one that fails later would end the process. */
function answer<T>(what: string, given: T): T {
  if (typeof given !== 'object' || given === null || !('then' in given)) return given;
  Promise.resolve(given).catch(() => undefined);
  throw new Error(`${what} must give its answer at once, not a promise`);
}
