// Knobs: the settings of modules that may change while a model runs. A module that has some says so by a static `knobs`: for each
// property, whether a change of it leaves every bit of the results alone. In: a model; out: its knobs by path, to read, set and restore.
import { UserError } from '../base/errors.ts';
import type { TypedArray } from '../base/dtype.ts';
import type { Attrs, Graph, Node, ValueId } from '../graph/graph.ts';
import type { Edits } from '../graph/retype.ts';
import type { Named } from './module.ts';
import type { Parameter } from './parameter.ts';

export type KnobValue = string | number | boolean | readonly (string | number | boolean)[];
/** All knobs of one module by name. */
export type Settings = Readonly<Record<string, KnobValue>>;
/** By knob: whether the module computes the same bits with the settings `to` as with `from`, which differ in this knob. */
export type KnobRules = Readonly<Record<string, (from: Settings, to: Settings, module: object) => boolean>>;

export interface Change { readonly path: string; readonly knob: string; readonly from: KnobValue; readonly to: KnobValue }

/** N: neutral, the same bits. R: results change. */
export type ChangeClass = 'N' | 'R';

/** What a change of settings of the module at `path` comes to in an optimised graph; null where the model must be traced again. A class
 * that knows has it as a static `resize`. */
export type Resize = (graph: Graph, path: string, from: Settings, to: Settings) => Edits | null;

/** Part of a parameter along `axis`, or all of it (null). */
export interface Place<P> { readonly parameter: P; readonly axis: number; readonly part: number | null }

/** A place gets the values of another, of the same shape, or what lies between two: from + share * (mixed - from). Optimiser's moments likewise. */
export interface Move<P = string> { readonly to: Place<P>; readonly from: Place<P>; readonly mix?: { readonly with: Place<P>; readonly share: number } }

/** Which values of its parameters a change of a module's settings takes along, in order; throws UserError where that cannot be. A class that
 * has such settings has it as a static `transfer`. */
export type Transfer = (module: object, from: Settings, to: Settings) => readonly Move<Parameter>[];

export const knobRules = (module: object): KnobRules | null => (module.constructor as { readonly knobs?: KnobRules }).knobs ?? null;

/** The path of a session's own knobs, which no module has. */
export const SESSION = '@session';

export class Knobs {
  readonly #modules: ReadonlyMap<string, Record<string, KnobValue>>;
  /** Each with the names of its knobs. */
  readonly #lists: readonly (readonly [Record<string, KnobValue>, readonly string[]])[];
  readonly #named: Named;
  /** As the model came. */
  readonly #initial: Readonly<Record<string, Settings>>;
  /** Of knobs that changes of no result have set: the value that was decided before, and the one that they set. */
  readonly #neutral = new Map<string, Change>();

  /** more: objects with knobs beside the model's modules, by paths of their own. */
  constructor(named: Named, more: ReadonlyMap<object, string> = new Map()) {
    this.#named = named;
    this.#modules = new Map([...named.paths, ...more].filter(([module]) => knobRules(module)).map(([module, path]) => [path, module as Record<string, KnobValue>]));
    this.#lists = [...this.#modules.values()].map((module) => [module, Object.keys(knobRules(module) ?? {})]);
    this.#initial = this.all();
  }

  get paths(): string[] { return [...this.#modules.keys()]; }

  settings(path: string): Settings {
    const module = this.#module(path);
    return Object.fromEntries(Object.keys(knobRules(module) ?? {}).map((knob) => [knob, copy(module[knob])]));
  }

  /** Settings that a module had when these knobs were made: its user's own. */
  initial(path: string): Settings { return this.#initial[path] ?? {}; }

  /** Whether a module has a knob of this name. */
  has(knob: string): boolean { return [...this.#modules.values()].some((module) => knob in (knobRules(module) ?? {})); }

  /** Settings of all modules: what a checkpoint keeps. */
  all(): Record<string, Settings> { return Object.fromEntries(this.paths.map((path) => [path, this.settings(path)])); }

  /** Text that differs where any knob does. */
  key(): string { return JSON.stringify(this.#lists.map(([module, knobs]) => knobs.map((knob) => module[knob]))); }

  #module(path: string): Record<string, KnobValue> {
    const module = this.#modules.get(path);
    if (!module) throw new UserError(`no module with knobs at "${path}"`, `there are: ${this.paths.join(', ') || 'none'}`);
    return module;
  }

  /** Sets the new values, all or none: a setter may refuse one. */
  apply(changes: readonly Change[]): void { this.#set(changes, 'from', 'to'); }
  undo(changes: readonly Change[]): void { this.#set([...changes].reverse(), 'to', 'from'); }

  #set(changes: readonly Change[], from: 'from' | 'to', to: 'from' | 'to'): void {
    const done: Change[] = [];
    try {
      inTurn(changes, (c) => {
        this.#module(c.path)[c.knob] = c[to];
        done.unshift(c);
      });
    } catch (error) {
      for (const c of done) this.#module(c.path)[c.knob] = c[from];
      throw error;
    }
  }

  /** Changes as the modules take them (`frozen = true` stands for a list), without those that change nothing; a setter may refuse one. */
  settled(changes: readonly Change[]): Change[] {
    return this.with(changes, () => changes.map((c) => ({ ...c, to: this.settings(c.path)[c.knob] }))).filter((c) => text(c.from) !== text(c.to));
  }

  /** Runs `work` with changes applied; then everything is as it was. */
  with<T>(changes: readonly Change[], work: () => T): T {
    const now = changes.map((c): Change => ({ ...c, from: copy(this.#module(c.path)[c.knob]) }));
    this.apply(now);
    try { return work(); } finally { this.undo(now); }
  }

  /** Changes of no result came into force, and stay, by what clocks and compilers said: values that were decided are remembered. */
  wasNeutral(changes: readonly Change[]): void {
    for (const { path, knob, from, to } of changes) {
      const key = `${path} ${knob}`, before = this.#neutral.get(key), decided = before && text(before.to) === text(from) ? before.from : from;
      if (text(decided) === text(to)) this.#neutral.delete(key); else this.#neutral.set(key, { path, knob, from: decided, to });
    }
  }

  /** Changes of results came into force: their values are the decided ones. */
  wasDecided(changes: readonly Change[]): void { for (const { path, knob } of changes) this.#neutral.delete(`${path} ${knob}`); }

  /** What leads from the settings of now to those that do not depend on clocks or compilers: knobs that changes of no result have set go back to
   * what they were before. One that somebody else has set since is as decided as any other. */
  toDecided(): Change[] {
    for (const [key, { path, knob, to }] of this.#neutral) if (text(this.settings(path)[knob]) !== text(to)) this.#neutral.delete(key);
    return [...this.#neutral.values()].map((c) => ({ ...c, from: c.to, to: c.from }));
  }

  /** The decided values of knobs that have others now, by path: what a checkpoint keeps beside `all`. */
  decided(): Record<string, Settings> {
    const changes = this.toDecided();
    return Object.fromEntries([...new Set(changes.map((c) => c.path))].map((path) => [path, Object.fromEntries(changes.filter((c) => c.path === path).map((c) => [c.knob, c.to]))]));
  }

  /** All or none. What is not among the `decided` is so with the values of `all`. */
  restore(all: Readonly<Record<string, Settings>>, decided: Readonly<Record<string, Settings>> = {}): void {
    const flat = (of: Readonly<Record<string, Settings>>): Change[] => Object.entries(of).flatMap(([path, settings]) => Object.entries(settings).map(([knob, to]) => {
      const module = this.#module(path), known = Object.keys(knobRules(module) ?? {});
      // Any other property is no setting: a file must not replace it.
      if (!known.includes(knob)) throw new UserError(`the module at "${path}" has no setting ${knob}`, `it has ${known.join(', ')}`);
      return { path, knob, from: copy(module[knob]), to };
    }));
    const before = flat(decided);
    this.apply(flat(all));
    this.#neutral.clear();
    this.wasNeutral(before.map(({ path, knob, to }) => ({ path, knob, from: to, to: this.settings(path)[knob] })));
  }

  /** Values of parameters that go with the changes, by the parameters' names, in order. */
  moves(changes: readonly Change[]): Move[] {
    const names = new Map([...this.#named.parameters].map(([name, p]) => [p, name]));
    const by = ({ parameter, ...place }: Place<Parameter>): Place<string> => {
      const name = names.get(parameter);
      if (name === undefined) throw new UserError('a parameter is to move that belongs to no property of the model');
      return { ...place, parameter: name };
    };
    return [...new Set(changes.map((c) => c.path))].flatMap((path) => {
      const module = this.#module(path), from = this.settings(path), own = changes.filter((c) => c.path === path);
      const moves = (module.constructor as { readonly transfer?: Transfer }).transfer?.(module, from, { ...from, ...Object.fromEntries(own.map((c) => [c.knob, c.to])) }) ?? [];
      return moves.map(({ to, from: source, mix }) => ({ to: by(to), from: by(source), ...(mix && { mix: { with: by(mix.with), share: mix.share } }) }));
    });
  }

  /** What leads from a graph that was made under other settings to that under those of now, if no module needs tracing for it. */
  edits(graph: Graph, from: Readonly<Record<string, Settings>>): Edits | null {
    const attrs = new Map<Node, Attrs>(), data = new Map<ValueId, TypedArray>();
    for (const path of this.paths) {
      const to = this.settings(path);
      if (JSON.stringify(from[path]) === JSON.stringify(to)) continue;
      const own = (this.#module(path).constructor as { readonly resize?: Resize }).resize?.(graph, path, from[path], to);
      if (!own) return null;
      for (const [node, value] of own.attrs) attrs.set(node, value);
      for (const [value, list] of own.data) data.set(value, list);
    }
    return { attrs, data };
  }

  /** N if every module computes the same bits after the changes. */
  classify(changes: readonly Change[]): ChangeClass {
    const neutral = [...new Set(changes.map((c) => c.path))].every((path) => {
      const own = changes.filter((c) => c.path === path), from = this.settings(path);
      const to = { ...from, ...Object.fromEntries(own.map((c) => [c.knob, c.to])) }, module = this.#module(path), rules = knobRules(module) ?? {};
      return own.every((c) => rules[c.knob](from, to, module));
    });
    return neutral ? 'N' : 'R';
  }
}

const text = (v: KnobValue): string => JSON.stringify(v);
const copy = (value: KnobValue): KnobValue => (Array.isArray(value) ? [...value as KnobValue[]] as KnobValue : value);

/** Does each. A setter may look at other knobs, whose turn comes later: what it refuses is tried again after them, as long as some succeed. */
function inTurn<T>(all: readonly T[], does: (one: T) => void): void {
  for (let left = all; left.length > 0;) {
    const errors: unknown[] = [], refused = left.filter((one) => {
      try { does(one); return false; } catch (error) { errors.push(error); return true; }
    });
    if (refused.length === left.length) throw errors[0];
    left = refused;
  }
}
