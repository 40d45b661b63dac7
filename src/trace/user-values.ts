// What the user of a module wrote on its knobs, and how a session's settings lie over that for as long as synchronous
// work runs. Several sessions may share a model, so nothing of a session stays on a module.
import type { KnobRules, KnobValue } from './knob.ts';

/** A module as an object whose properties are its knobs. */
export type Knobbed = Record<string, KnobValue>;

/** The setting of one knob of one module. */
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

/** How often each knob was written by the user, for classes that call `noticeWrites`. */
const writes = new WeakMap<object, Map<string, number>>();
/** What lies under a session's settings at this moment. */
const covers = new WeakMap<object, Map<string, Cover>>();
/** Settings of how many calls of `whileSet` lie on modules at this moment. */
let depth = 0;
/** Whether it is `whileSet` that writes. */
let placing = false;

export const textOf = (value: KnobValue): string => JSON.stringify(value);
export const copyOf = (value: KnobValue): KnobValue =>
  Array.isArray(value) ? ([...(value as KnobValue[])] as KnobValue) : value;

/**
 * Counts what is written to the knobs of a class through its setters. Without it a write is noticed where it changes
 * the value; with it a write of the value that the knob has already is noticed, too: it replaces what a rule has set.
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

/** Whether some session's settings lie on modules at this moment. */
export const someAreSet = (): boolean => depth > 0;

/** The user's own value of a knob, also while a session's settings lie on the module. */
export function userValue(module: Knobbed, knob: string): KnobValue {
  const cover = depth > 0 ? covers.get(module)?.get(knob) : undefined;
  return cover && stands(cover, module, knob) ? cover.user : module[knob];
}

/** Whether nobody has written to the knob since it was covered. */
const stands = ({ put, writes: count }: Cover, module: Knobbed, knob: string): boolean =>
  textOf(module[knob]) === put && writesOf(module, knob) === count;

/**
 * Runs `work` while the modules have these settings, and takes them off again, however it ends; what the user writes
 * meanwhile stays. Throws what a setter refuses, with every module as it was. `work` must be synchronous.
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

/** Gives what takes it off again. */
function put({ module, knob, value }: Placed): () => void {
  const before = module[knob],
    user = userValue(module, knob),
    own = countsOf(covers, module),
    outer = own.get(knob);
  try {
    write(module, knob, copyOf(value));
  } catch (error) {
    if (textOf(module[knob]) !== textOf(before)) write(module, knob, before); // a setter that fails half way
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
 * Does each. A setter may look at other knobs, whose turn comes later: what it refuses is tried again after them, as
 * long as some succeed.
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
