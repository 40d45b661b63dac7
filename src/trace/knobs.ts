// Knobs: the settings of modules that may change while a model runs. The class of a module lists them in a static
// `knobs`, with a rule that says whether a change leaves every bit of the results the same. This file gives the knobs
// of a model by path, as one session sees them: the values that the user wrote on the modules, and over them the values
// that this session's rules have set, which are not written on the modules.
import { UserError } from '../base/errors.ts';
import type { TypedArray } from '../base/dtype.ts';
import type { Attrs, Graph, Node, ValueId } from '../graph/graph.ts';
import type { Edits } from '../graph/retype.ts';
import { classOf, knobRules, type KnobRules, type KnobValue, type Settings } from './knob.ts';
import type { Named } from './module.ts';
import type { Parameter } from './parameter.ts';
import {
  copyOf,
  inTurn,
  sameValue,
  someAreSet,
  textOf,
  userValue,
  whileSet,
  writesOf,
  type Knobbed,
} from './user-values.ts';

export { knobRules, type KnobRules, type KnobValue, type Settings };

export interface Change {
  readonly path: string;
  readonly knob: string;
  readonly from: KnobValue;
  readonly to: KnobValue;
}

/** N: neutral, the results stay the same, bit by bit. R: results change. */
export type ChangeClass = 'N' | 'R';

/**
 * The changes in an optimised graph that follow from a change of settings of the module at `path`; null if the model
 * must be traced again. A class that supports this has it as a static `resize`.
 */
export type Resize = (graph: Graph, path: string, from: Settings, to: Settings) => Edits | null;

/** A part of a parameter along `axis`, or the whole of it (null). */
export interface Place<P> {
  readonly parameter: P;
  readonly axis: number;
  readonly part: number | null;
}

/**
 * A place gets the values of another place of the same shape, or values between two: from + share * (mixed - from). The
 * moments of the optimizer move in the same way.
 */
export interface Move<P = string> {
  readonly to: Place<P>;
  readonly from: Place<P>;
  readonly mix?: { readonly with: Place<P>; readonly share: number };
}

/**
 * The parameter values that move with a change of a module's settings, in order; throws UserError where the change is
 * impossible. A class with such settings has it as a static `transfer`.
 */
export type Transfer = (module: object, from: Settings, to: Settings) => readonly Move<Parameter>[];

/** A parameter that training does not change, or the parts along `axis` that are true. */
export interface Kept {
  readonly parameter: Parameter;
  readonly axis: number;
  readonly parts: true | readonly boolean[];
}

/**
 * The parameters that a module's settings exclude from training. A class with such settings has it as a static `keeps`.
 */
export type Keeps = (module: object) => readonly Kept[];

/** The path of the session's own knobs; no module has this path. */
export const SESSION = '@session';

/** A value that a rule has set. */
interface Own {
  readonly value: KnobValue;
  /**
   * The user's value when the rule set its own, and how often the user had written the knob. If the user writes later,
   * the rule's value no longer counts.
   */
  readonly user: string;
  readonly writes: number;
  /** If the rule's change left the results the same: the value of before, which does not depend on measured times. */
  readonly deterministic?: KnobValue;
}

/** Takes back what `apply` set; what the user has written since stays. */
export type TakeBack = () => void;

export class Knobs {
  readonly #modules: ReadonlyMap<string, Knobbed>;
  /** Each module with its path and the names of its knobs. */
  readonly #lists: readonly (readonly [path: string, Knobbed, readonly string[]])[];
  readonly #named: Named;
  /** Modules that exclude parts of their parameters from training. */
  readonly #keepers: readonly { readonly module: Knobbed; readonly keeps: Keeps }[];
  /** Copies of the values of all knobs at the last call of `key`. */
  readonly #last: { readonly values: KnobValue[]; text: string } = { values: [], text: '' };
  /** Values that rules have set, by path and knob. */
  readonly #own = new Map<string, Map<string, Own>>();

  /** more: objects with knobs that are no modules of the model, each with a path of its own. */
  constructor(named: Named, more: ReadonlyMap<object, string> = new Map()) {
    this.#named = named;
    this.#modules = new Map(
      [...named.paths, ...more]
        .filter(([module]) => knobRules(module))
        .map(([module, path]) => [path, module as Knobbed]),
    );
    this.#keepers = [...this.#modules.values()].flatMap((module) => {
      const { keeps } = classOf(module) as { readonly keeps?: Keeps };
      return keeps ? [{ module, keeps }] : [];
    });
    this.#lists = [...this.#modules].map(([path, module]) => [path, module, Object.keys(knobRules(module) ?? {})]);
  }

  get paths(): string[] {
    return [...this.#modules.keys()];
  }

  settings(path: string): Settings {
    const module = this.#module(path);
    return Object.fromEntries(
      Object.keys(knobRules(module) ?? {}).map((knob) => [knob, copyOf(this.#value(path, module, knob))]),
    );
  }

  /** The value of one knob. */
  setting(path: string, knob: string): KnobValue {
    return copyOf(this.#value(path, this.#module(path), knob));
  }

  /** The values that the user wrote on a module. */
  initial(path: string): Settings {
    const module = this.#modules.get(path);
    return module
      ? Object.fromEntries(Object.keys(knobRules(module) ?? {}).map((knob) => [knob, copyOf(userValue(module, knob))]))
      : {};
  }

  /** Whether any module has a knob of this name. */
  has(knob: string): boolean {
    return this.#lists.some(([, , knobs]) => knobs.includes(knob));
  }

  /** The settings of all modules: what a checkpoint stores. */
  all(): Record<string, Settings> {
    return Object.fromEntries(this.paths.map((path) => [path, this.settings(path)]));
  }

  /**
   * A text that differs if any knob differs. It is asked for before each step, and rebuilt only if a knob has changed.
   */
  key(): string {
    const { values } = this.#last;
    let at = 0,
      same = true;
    for (const [path, module, knobs] of this.#lists) {
      const own = this.#own.get(path);
      for (const knob of knobs) {
        const value = own?.has(knob) ? this.#value(path, module, knob) : userValue(module, knob);
        if (!sameValue(values[at], value)) {
          values[at] = copyOf(value);
          same = false;
        }
        at++;
      }
    }
    if (!same) this.#last.text = JSON.stringify(values);
    return this.#last.text;
  }

  #module(path: string): Knobbed {
    const module = this.#modules.get(path);
    if (!module)
      throw new UserError(`no module with knobs at "${path}"`, `there are: ${this.paths.join(', ') || 'none'}`);
    return module;
  }

  #value(path: string, module: Knobbed, knob: string): KnobValue {
    return this.#ownOf(path, module, knob)?.value ?? userValue(module, knob);
  }

  /** The value that a rule has set, unless the user has written the knob since. */
  #ownOf(path: string, module: Knobbed, knob: string): Own | undefined {
    const all = this.#own.get(path),
      own = all?.get(knob);
    if (!own || (writesOf(module, knob) === own.writes && textOf(userValue(module, knob)) === own.user)) return own;
    all?.delete(knob);
    return undefined;
  }

  #setOwn(path: string, knob: string, own: Own | undefined): void {
    const all = this.#own.get(path) ?? new Map<string, Own>();
    this.#own.set(path, all);
    if (own) all.set(knob, own);
    else all.delete(knob);
  }

  #set(
    { path, knob }: { readonly path: string; readonly knob: string },
    value: KnobValue,
    deterministic: KnobValue | undefined,
  ): void {
    const module = this.#module(path),
      user = textOf(userValue(module, knob));
    const same = deterministic === undefined && textOf(value) === user;
    this.#setOwn(
      path,
      knob,
      same
        ? undefined
        : {
            value: copyOf(value),
            user,
            writes: writesOf(module, knob),
            ...(deterministic !== undefined && { deterministic: deterministic }),
          },
    );
  }

  /**
   * Runs `work` while the modules have this session's settings; restores the user's values afterwards, even if `work`
   * throws. `work` must be synchronous: between steps, modules hold the user's values.
   */
  onModules<T>(work: () => T): T {
    const settings = [...this.#own].flatMap(([path, knobs]) =>
      [...knobs.keys()].map((knob) => {
        const module = this.#module(path);
        return { module, knob, value: this.#value(path, module, knob) };
      }),
    );
    // While the settings of another session are on the modules, the values found there may not be the user's.
    return settings.length === 0 && !someAreSet()
      ? work()
      : whileSet(someAreSet() ? this.#everything() : settings, work);
  }

  #everything(): { module: Knobbed; knob: string; value: KnobValue }[] {
    return this.#lists.flatMap(([path, module, knobs]) =>
      knobs.map((knob) => ({ module, knob, value: this.#value(path, module, knob) })),
    );
  }

  /**
   * Sets new values, as the setters of the modules convert them (`frozen = true` becomes a list). If a setter refuses
   * one, none is set.
   */
  apply(changes: readonly Change[]): TakeBack {
    if (changes.length === 0) return () => undefined;
    const before = changes.map(({ path, knob }) => ({ path, knob, own: this.#ownOf(path, this.#module(path), knob) }));
    const back = (): void => {
      for (const { path, knob, own } of before) this.#setOwn(path, knob, own);
    };
    try {
      changes.forEach((c, i) => {
        this.#set(c, c.to, before[i].own?.deterministic);
      });
      const taken = this.onModules(() => changes.map(({ path, knob }) => copyOf(this.#module(path)[knob])));
      changes.forEach((c, i) => {
        this.#set(c, taken[i], before[i].own?.deterministic);
      });
    } catch (error) {
      back();
      throw error;
    }
    return back; // only values that the user has not overwritten since
  }

  /**
   * Changes as the setters of the modules convert them, without those that change nothing. Throws what a setter
   * refuses.
   */
  settled(changes: readonly Change[]): Change[] {
    return this.with(changes, () => changes.map((c) => ({ ...c, to: this.settings(c.path)[c.knob] }))).filter(
      (c) => textOf(c.from) !== textOf(c.to),
    );
  }

  /** Runs `work` with changes applied, then takes them back. */
  with<T>(changes: readonly Change[], work: () => T): T {
    const back = this.apply(changes);
    try {
      return work();
    } finally {
      back();
    }
  }

  /** Writes this session's settings to the modules: they become the user's values, for every session of the model. */
  keep(): void {
    const all = this.#everything(),
      different = all.filter(({ module, knob, value }) => textOf(userValue(module, knob)) !== textOf(value));
    const before = different.map(({ module, knob }) => ({ module, knob, value: module[knob] })),
      write = (list: typeof different): void => {
        inTurn(list, ({ module, knob, value }) => {
          module[knob] = copyOf(value);
        });
      };
    try {
      write(different);
    } catch (error) {
      write(before);
      throw error;
    }
    this.#own.clear();
  }

  /**
   * Records neutral changes that were made because of measured times: the deterministic values of these knobs are
   * remembered.
   */
  becameNeutral(changes: readonly Change[]): void {
    for (const { path, knob, from, to } of changes) {
      const { deterministic = from } = this.#ownOf(path, this.#module(path), knob) ?? {};
      this.#set({ path, knob }, to, textOf(deterministic) === textOf(to) ? undefined : deterministic);
    }
  }

  /** Records changes of results: their values are the deterministic ones. */
  becameDeterministic(changes: readonly Change[]): void {
    for (const { path, knob } of changes) {
      const own = this.#ownOf(path, this.#module(path), knob);
      if (own) this.#set({ path, knob }, own.value, undefined);
    }
  }

  /**
   * The changes back to the settings that do not depend on measured times: knobs that neutral changes have set get
   * their earlier values. A knob that the user has written since keeps its value.
   */
  toDeterministic(): Change[] {
    return [...this.#own].flatMap(([path, knobs]) =>
      [...knobs.keys()].flatMap((knob): Change[] => {
        const own = this.#ownOf(path, this.#module(path), knob);
        return own?.deterministic === undefined ? [] : [{ path, knob, from: own.value, to: own.deterministic }];
      }),
    );
  }

  /**
   * The deterministic values of the knobs whose present values are others, by path: a checkpoint stores them beside
   * `all`.
   */
  deterministic(): Record<string, Settings> {
    const changes = this.toDeterministic();
    return Object.fromEntries(
      [...new Set(changes.map((c) => c.path))].map((path) => [
        path,
        Object.fromEntries(changes.filter((c) => c.path === path).map((c) => [c.knob, c.to])),
      ]),
    );
  }

  /**
   * Restores all settings, or none if one is refused. A knob that is not in `decided` has the value in `all` as its
   * deterministic value.
   */
  restore(all: Readonly<Record<string, Settings>>, decided: Readonly<Record<string, Settings>> = {}): void {
    const flat = (of: Readonly<Record<string, Settings>>): Change[] =>
      Object.entries(of).flatMap(([path, settings]) =>
        Object.entries(settings).map(([knob, to]) => ({ path, knob, from: to, to })),
      );
    const before = [...this.#own],
      own = flat(all),
      neutral = flat(decided);
    this.#own.clear();
    try {
      const known = ({ path, knob }: Change): boolean => Object.hasOwn(knobRules(this.#module(path)) ?? {}, knob),
        stranger = [...own, ...neutral].find((c) => !known(c));
      this.apply(own.filter(known));
      if (stranger)
        throw new UserError(
          `${stranger.path || 'the model'} has no knob named ${stranger.knob}`,
          `it has ${Object.keys(this.settings(stranger.path)).join(', ')}`,
        );
      this.becameNeutral(
        neutral.map(({ path, knob, to }) => ({ path, knob, from: to, to: this.settings(path)[knob] })),
      );
    } catch (error) {
      this.#own.clear();
      for (const [path, knobs] of before) this.#own.set(path, knobs);
      throw error;
    }
  }

  /** The parameter values that move with the changes, by the names of parameters, in order. */
  moves(changes: readonly Change[]): Move[] {
    const names = new Map([...this.#named.parameters].map(([name, p]) => [p, name]));
    const by = ({ parameter, ...place }: Place<Parameter>): Place<string> => {
      const name = names.get(parameter);
      if (name === undefined)
        throw new UserError('a rule moves a parameter that is not stored in a property of the model');
      return { ...place, parameter: name };
    };
    return this.onModules(() =>
      [...new Set(changes.map((c) => c.path))].flatMap((path) => {
        const module = this.#module(path),
          from = this.settings(path),
          own = changes.filter((c) => c.path === path);
        const moves =
          (classOf(module) as { readonly transfer?: Transfer }).transfer?.(module, from, {
            ...from,
            ...Object.fromEntries(own.map((c) => [c.knob, c.to])),
          }) ?? [];
        return moves.map(({ to, from: source, mix }) => ({
          to: by(to),
          from: by(source),
          ...(mix && { mix: { with: by(mix.with), share: mix.share } }),
        }));
      }),
    );
  }

  /** The parameters that the settings of modules exclude from training. */
  kept(): Kept[] {
    if (this.#keepers.length === 0) return [];
    return this.onModules(() => this.#keepers.flatMap(({ module, keeps }) => keeps(module)));
  }

  /**
   * The changes that turn a graph made with the settings `from` into that of the present settings; null if a module
   * must be traced again.
   */
  edits(graph: Graph, from: Readonly<Record<string, Settings>>): Edits | null {
    const attrs = new Map<Node, Attrs>(),
      data = new Map<ValueId, TypedArray>();
    for (const path of this.paths) {
      const to = this.settings(path);
      if (JSON.stringify(from[path]) === JSON.stringify(to)) continue;
      const own = (classOf(this.#module(path)) as { readonly resize?: Resize }).resize?.(graph, path, from[path], to);
      if (!own) return null;
      for (const [node, value] of own.attrs) attrs.set(node, value);
      for (const [value, list] of own.data) data.set(value, list);
    }
    return { attrs, data };
  }

  /** N if every module computes the same bits after the changes, else R. */
  classify(changes: readonly Change[]): ChangeClass {
    const neutral = this.onModules(() =>
      [...new Set(changes.map((c) => c.path))].every((path) => {
        const own = changes.filter((c) => c.path === path),
          from = this.settings(path);
        const to = { ...from, ...Object.fromEntries(own.map((c) => [c.knob, c.to])) },
          module = this.#module(path),
          rules = knobRules(module) ?? {};
        return own.every((c) => rules[c.knob](from, to, module));
      }),
    );
    return neutral ? 'N' : 'R';
  }
}
