// The values that the user wrote on a module's knobs, and how a session's settings replace them while synchronous work
// runs. Several sessions may share a model, so a session leaves nothing on a module.
import type { KnobRules, KnobValue } from './knob.ts';

/** A module, as an object whose properties are its knobs. */
export type Knobbed = Record<string, KnobValue>;

/** A value for one knob of one module. */
export interface Placed {
  readonly module: Knobbed;
  readonly knob: string;
  readonly value: KnobValue;
}

interface Cover {
  readonly user: KnobValue;
  readonly put: string;
  readonly writes: number;
}

/** How often the user wrote each knob, for classes that call `noticeWrites`. */
const writes = new WeakMap<object, Map<string, number>>();
/** The user's values that a session's settings cover at this moment. */
const covers = new WeakMap<object, Map<string, Cover>>();
/** How many calls of `whileSet` are running. */
let depth = 0;
/** Whether `whileSet` is writing. */
let placing = false;

export const textOf = (value: KnobValue): string => JSON.stringify(value);
/** Whether two values are the same, lists element by element. Builds no text: `Knobs.key` asks before every step. */
export function sameValue(a: KnobValue | undefined, b: KnobValue): boolean {
  if (!Array.isArray(a) || !Array.isArray(b)) return Object.is(a, b);
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (!Object.is(a[i], b[i])) return false;
  return true;
}
export const copyOf = (value: KnobValue): KnobValue =>
  Array.isArray(value) ? ([...(value as KnobValue[])] as KnobValue) : value;

/**
 * Counts the writes to the knobs of a class. Without it, only a write that changes the value is noticed. With it, a
 * write of the same value is noticed too: it replaces what a rule has set.
 */
export function noticeWrites(of: { readonly prototype: object; readonly knobs: KnobRules }): void {
  for (const knob of Object.keys(of.knobs)) {
    const found = Object.getOwnPropertyDescriptor(of.prototype, knob),
      { set } = found ?? {};
    if (!set) throw new Error(`${knob} has no setter`);
    Object.defineProperty(of.prototype, knob, {
      ...found,
      set(this: object, value: unknown) {
        set.call(this, value);
        if (!placing) countsOf(writes, this).set(knob, writesOf(this, knob) + 1);
      },
    });
  }
}

function countsOf<T>(all: WeakMap<object, Map<string, T>>, module: object): Map<string, T> {
  const found = all.get(module) ?? new Map<string, T>();
  all.set(module, found);
  return found;
}

export const writesOf = (module: object, knob: string): number => writes.get(module)?.get(knob) ?? 0;

/** Whether a session's settings are on modules at this moment. */
export const someAreSet = (): boolean => depth > 0;

/** The user's value of a knob, even while a session's settings are on the module. */
export function userValue(module: Knobbed, knob: string): KnobValue {
  const cover = depth > 0 ? covers.get(module)?.get(knob) : undefined;
  return cover && stands(cover, module, knob) ? cover.user : module[knob];
}

/** Whether the user has not written the knob since a session covered it. */
const stands = ({ put, writes: count }: Cover, module: Knobbed, knob: string): boolean =>
  textOf(module[knob]) === put && writesOf(module, knob) === count;

/**
 * Runs `work` while the modules have these settings, and restores the values afterwards, even if `work` throws; what
 * the user writes meanwhile stays. If a setter refuses a value, its error is thrown and every module is as before.
 * `work` must be synchronous.
 */
export function whileSet<T>(settings: readonly Placed[], work: () => T): T {
  const done: (() => void)[] = [];
  depth++;
  try {
    inTurn(
      settings.filter(({ module, knob, value }) => textOf(module[knob]) !== textOf(value)),
      (one) => {
        done.unshift(put(one));
      },
    );
    return work();
  } finally {
    try {
      inTurn(done, (takeOff) => {
        takeOff();
      });
    } finally {
      depth--;
    }
  }
}

/** Sets a knob; gives a function that restores it. */
function put({ module, knob, value }: Placed): () => void {
  const before = module[knob],
    user = userValue(module, knob),
    own = countsOf(covers, module),
    outer = own.get(knob);
  try {
    write(module, knob, copyOf(value));
  } catch (error) {
    if (textOf(module[knob]) !== textOf(before)) write(module, knob, before); // the setter may have failed half way
    throw error;
  }
  const cover: Cover = { user, put: textOf(module[knob]), writes: writesOf(module, knob) };
  own.set(knob, cover);
  return () => {
    if (stands(cover, module, knob)) write(module, knob, before);
    if (outer) own.set(knob, outer);
    else own.delete(knob);
  };
}

function write(module: Knobbed, knob: string, value: KnobValue): void {
  placing = true;
  try {
    module[knob] = value;
  } finally {
    placing = false;
  }
}

/**
 * Does each. A setter may read other knobs that are set later: what it refuses is tried again after the others, as long
 * as one of them succeeds.
 */
export function inTurn<T>(all: readonly T[], does: (one: T) => void): void {
  for (let left = all; left.length > 0;) {
    const errors: unknown[] = [],
      refused = left.filter((one) => {
        try {
          does(one);
          return false;
        } catch (error) {
          errors.push(error);
          return true;
        }
      });
    if (refused.length === left.length) throw errors[0];
    left = refused;
  }
}
