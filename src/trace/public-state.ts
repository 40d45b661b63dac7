// Detects changes of a model outside its knobs: every public property of its modules, parameters and plain objects,
// which tracing may read. The result is a number that stays the same while nothing changes, and that is the same again
// when everything is as before. Programs are kept by this number, so that whatever is written to a model takes effect
// at the next step.
//
// Public properties are own enumerable properties, entries of Map and Set, and properties with a getter and a setter.
// Private fields (#x) and variables of closures cannot be seen. A check costs one comparison for each property.
import { UserError } from '../base/errors.ts';
import { keepRecent } from '../base/recent.ts';
import { bytesOf, sameBytes } from '../base/same.ts';
import { knobRules } from './knob.ts';
import { isModule, isPart, nameParameters, type Named } from './module.ts';
import { freezesSoFar, Parameter } from './parameter.ts';
import { someAreSet } from './user-values.ts';

/** Typed arrays of up to so many bytes are compared by their elements; larger ones only by identity. */
export const COMPARED_BYTES = 16_384;
/**
 * The number of remembered states. A state that was forgotten gets a new number, and its programs are compiled again.
 */
const STATES = 256;

/** An object and its values at the last look. */
interface Seen {
  readonly object: object;
  readonly path: string;
  /** Own keys; null for a parameter, whose own properties cannot change. */
  readonly keys: readonly string[] | null;
  /** Properties for which the class has a getter and a setter. */
  readonly accessors: readonly string[];
  readonly values: readonly unknown[];
  /** For each of the own keys: whether a change of it counts. */
  readonly watched: readonly boolean[];
  /** Copies of the elements of typed arrays in `values`, by index; null if there are none. */
  readonly copies: ReadonlyMap<number, ArrayBufferView> | null;
}

type Indexed = Readonly<Record<string, unknown>>;

export class PublicState {
  readonly #roots: readonly (readonly [path: string, object: object])[];
  readonly #model: object;
  readonly #named: Named;
  readonly #numbers = new Map<string, number>();
  readonly #identities = new WeakMap<object, number>();
  readonly #symbols = new Map<symbol, number>();
  /** Properties that tracing itself writes. */
  readonly #own = new WeakMap<object, Set<string>>();
  #last = 0;
  #identity = 0;
  #seen: readonly Seen[] = [];
  /** All objects except parameters, which count writes to themselves. */
  #others: readonly Seen[] = [];
  #freezes = 0;
  #number = 0;

  /** `more`: other objects that tracing reads, by name. */
  constructor(model: object, named: Named, more: Readonly<Record<string, object | undefined>> = {}) {
    this.#model = model;
    this.#named = named;
    this.#roots = [
      ['', model],
      ...Object.entries(more).flatMap(([path, object]) => (object ? [[`(${path})`, object] as const] : [])),
    ];
    this.#look();
  }

  /** How many properties one check compares. */
  get size(): number {
    return this.#seen.reduce((n, { values }) => n + values.length, 0);
  }

  /**
   * The number of the present state. Throws UserError if a parameter or a module of the model was added, removed or
   * replaced.
   */
  number(): number {
    // While a session's settings are on the modules, the values there are not the user's.
    if (!someAreSet() && !this.#same()) this.#look();
    return this.#number;
  }

  /** Whether nothing has changed. This runs before each step, so it compares values and builds no text. */
  #same(): boolean {
    const toLookAt = this.#freezes === freezesSoFar() ? this.#others : this.#seen;
    for (const one of toLookAt) if (!untouched(one) && this.#changed(one, true).length > 0) return false;
    this.#freezes = freezesSoFar();
    return true;
  }

  /**
   * Runs `work` (tracing, `forward` above all), which may write to modules: properties that it writes are ignored from
   * then on.
   */
  tracing<T>(work: () => T): T {
    this.number();
    try {
      return work();
    } finally {
      const written = someAreSet()
        ? []
        : this.#seen.flatMap((one) => this.#changed(one, false).map((key) => [one.object, key] as const));
      for (const [object, key] of written) this.#own.set(object, (this.#own.get(object) ?? new Set()).add(key));
      if (written.length > 0) this.#look(this.#number);
    }
  }

  #watches(object: object, key: string): boolean {
    return this.#own.get(object)?.has(key) !== true && !Object.hasOwn(knobRules(object) ?? {}, key);
  }

  /** The names of changed properties, or only the first of them. */
  #changed(one: Seen, first: boolean): string[] {
    const { object, keys, accessors, values, copies } = one,
      found: string[] = [],
      now = keys === null ? keys : keysOf(object);
    const at = listed(object) ? entriesOf(object) : null,
      read = (key: string): unknown => (at ? at[Number(key)] : valueOf(object, key));
    const differs = (i: number, value: unknown): boolean =>
      !Object.is(value, values[i]) || !sameCopy(value, copies?.get(i));
    if (keys && now) {
      if (now.length === keys.length && now.every((key, i) => key === keys[i])) {
        for (let i = 0; i < keys.length; i++) {
          if (!differs(i, read(keys[i])) || !this.#watches(object, keys[i])) continue;
          found.push(keys[i]);
          if (first) return found;
        }
      } else {
        const before = new Map(keys.map((key, i) => [key, i]));
        const touched = [
          ...now.filter((key) => {
            const i = before.get(key);
            return i === undefined || differs(i, read(key));
          }),
          ...keys.filter((key) => !now.includes(key)),
        ];
        found.push(...touched.filter((key) => this.#watches(object, key)));
      }
    }
    const offset = keys?.length ?? 0;
    for (let i = 0; i < accessors.length && !(first && found.length > 0); i++)
      if (differs(offset + i, valueOf(object, accessors[i]))) found.push(accessors[i]);
    return found;
  }

  /** Looks at all properties. `as`: the number of the state before, if only tracing itself has written. */
  #look(as?: number): void {
    const named = nameParameters(this.#model),
      gone = difference(this.#named, named) ?? difference(named, this.#named);
    if (gone !== null)
      throw new UserError(
        `the model has changed since it was compiled: ${gone} was added, removed or replaced`,
        'modules and parameters of a session stay; compile(model, ...) makes another session',
      );
    const seen: Seen[] = [],
      text: string[] = [],
      paths = new Map<object, string>(),
      lists = new Map<string, readonly unknown[]>();
    const visit = (object: object, path: string): void => {
      paths.set(object, path);
      const keys = object instanceof Parameter ? null : keysOf(object),
        accessors = accessorsOf(object).filter((key) => this.#watches(object, key));
      const own = listed(object) ? entriesOf(object) : (keys ?? []).map((key) => valueOf(object, key));
      const values = [...own, ...accessors.map((key) => valueOf(object, key))];
      const copies = new Map<number, ArrayBufferView>();
      const watched = (keys ?? []).map((key) => this.#watches(object, key));
      [...(keys ?? []), ...accessors].forEach((key, i) => {
        const value = values[i];
        if (this.#watches(object, key) && ArrayBuffer.isView(value) && value.byteLength <= COMPARED_BYTES)
          copies.set(i, bytesOf(value).slice());
      });
      // Objects of one class share their lists of keys: a check then reads less memory.
      const shared = <T extends readonly unknown[]>(list: T): T => {
        const name = JSON.stringify(list),
          found = (lists.get(name) as T | undefined) ?? list;
        lists.set(name, found);
        return found;
      };
      seen.push({
        object,
        path,
        keys: keys && shared(keys),
        accessors: shared(accessors),
        values,
        watched: shared(watched),
        copies: copies.size > 0 ? copies : null,
      });
      [...(keys ?? []), ...accessors].forEach((key, i) => {
        if (!this.#watches(object, key)) return;
        const value = values[i],
          at = `${path}.${key}`;
        if (isPart(value) && !paths.has(value)) visit(value, at);
        text.push(`${at}=${isPart(value) ? `@${paths.get(value) ?? ''}` : this.#token(value)}`);
      });
    };
    for (const [path, root] of this.#roots) if (!paths.has(root)) visit(root, path);
    const all = text.join('\n');
    this.#number = as ?? this.#numbers.get(all) ?? ++this.#last;
    keepRecent(this.#numbers, all, this.#number, STATES);
    this.#seen = seen;
    this.#others = seen.filter(({ object }) => Object.getPrototypeOf(object) !== Parameter.prototype);
    this.#freezes = freezesSoFar();
  }

  #token(value: unknown): string {
    if (ArrayBuffer.isView(value))
      return (
        `${value.constructor.name} ` +
        `${value.byteLength <= COMPARED_BYTES ? bytesOf(value).join() : this.#identityOf(value)}`
      );
    switch (typeof value) {
      case 'string':
        return JSON.stringify(value);
      case 'number':
        return Object.is(value, -0) ? '-0' : String(value);
      case 'bigint':
        return `${value}n`;
      case 'symbol': {
        const found = this.#symbols.get(value) ?? this.#symbols.size;
        this.#symbols.set(value, found);
        return `symbol ${found}`;
      }
      case 'function':
        return `function ${this.#identityOf(value)}`;
      case 'object':
        return value === null ? 'null' : `object ${this.#identityOf(value)}`;
      default:
        return String(value);
    }
  }

  #identityOf(object: object): number {
    const found = this.#identities.get(object) ?? ++this.#identity;
    this.#identities.set(object, found);
    return found;
  }
}

/** The path of a parameter or a module that `a` has and `b` has not, or that differs; null if there is none. */
function difference(a: Named, b: Named): string | null {
  for (const [name, parameter] of a.parameters) if (b.parameters.get(name) !== parameter) return `parameter ${name}`;
  for (const [object, path] of a.paths)
    if (isModule(object) && b.paths.get(object) !== path) return path === '' ? 'the model' : `module ${path}`;
  return null;
}

/**
 * Whether all watched properties are as before. If not, `changed` says which differ: this function answers no for
 * everything that needs a closer look.
 */
function untouched({ object, keys, accessors, values, copies, watched }: Seen): boolean {
  if (keys === null || copies !== null || listed(object)) return false;
  try {
    return (
      (Array.isArray(object)
        ? sameList(object, keys, values, watched)
        : sameProperties(object as Indexed, keys, values, watched)) &&
      accessors.every((key, i) => Object.is((object as Indexed)[key], values[keys.length + i]))
    );
  } catch {
    return false; // a getter fails
  }
}

type Values = readonly unknown[];

/** `for in` allocates no list of keys. Keys that a prototype adds come last, and count as a difference. */
function sameProperties(
  object: Indexed,
  keys: readonly string[],
  values: Values,
  watched: readonly boolean[],
): boolean {
  let i = 0;
  for (const key in object) {
    if (i >= keys.length || key !== keys[i]) return false;
    if (!Object.is(object[key], values[i]) && watched[i]) return false;
    i++;
  }
  return i === keys.length;
}

/** For a list, whose last key is its length. `for in` would take twice as long. */
function sameList(
  list: readonly unknown[],
  keys: readonly string[],
  values: Values,
  watched: readonly boolean[],
): boolean {
  const now = Object.keys(list);
  if (now.length !== keys.length - 1 || list.length !== values[now.length]) return false;
  for (let i = 0; i < now.length; i++) {
    if (now[i] !== keys[i]) return false;
    if (!Object.is((list as unknown as Indexed)[now[i]], values[i]) && watched[i]) return false;
  }
  return true;
}

type Listed = ReadonlyMap<unknown, unknown> | ReadonlySet<unknown>;
const listed = (object: object): object is Listed => object instanceof Map || object instanceof Set;

/**
 * The names of the entries of an object. Entries of Map and Set are named by their places: key 0, value 0, key 1, ...
 */
function keysOf(object: object): string[] {
  if (listed(object)) return Array.from({ length: 2 * object.size }, (_, i) => String(i));
  return Array.isArray(object) ? [...Object.keys(object), 'length'] : Object.keys(object);
}
const entriesOf = (object: Listed): unknown[] => [...object.entries()].flat(1);

const FAILS = Symbol('a getter that fails');

function valueOf(object: object, key: string): unknown {
  try {
    return (object as Indexed)[key];
  } catch {
    return FAILS;
  }
}

const accessors = new WeakMap<object, readonly string[]>();

/** Properties with a getter and a setter in an object's class and its base classes, without knobs. */
function accessorsOf(object: object): readonly string[] {
  const type = Object.getPrototypeOf(object) as object | null;
  if (type === null || type === Object.prototype || type === Array.prototype) return [];
  const found = accessors.get(type) ?? [
    ...new Set([
      ...accessorsOf(type),
      ...Object.entries(Object.getOwnPropertyDescriptors(type)).flatMap(([key, { get, set }]) =>
        get && set ? [key] : [],
      ),
    ]),
  ];
  accessors.set(type, found);
  return found;
}

const sameCopy = (value: unknown, copy: ArrayBufferView | undefined): boolean =>
  copy === undefined || sameBytes(value as ArrayBufferView, copy);
