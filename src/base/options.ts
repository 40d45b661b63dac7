// Checks of options objects. An unknown key, a value of a wrong kind, and a setting without effect are errors that name
// the key.
import { UserError } from './errors.ts';
import type { Kind, Needed } from './kinds.ts';

/**
 * All keys of an options type, with the kind of their values, and whether each must be given. The TypeScript compiler
 * refuses a list that lacks a key, has an unknown one, or is wrong about which must be given.
 */
export type KeysOf<T extends object> = { readonly [K in keyof T]-?: object extends Pick<T, K> ? Kind : Needed };

/**
 * Throws UserError if `options` is no object, has a key that is not in `keys` or a value of another kind, or lacks a
 * key that must be given. undefined stands for no options, and for an option that is not given. `where`: the name of
 * the class or function that was called.
 */
export function checkOptions<T extends object>(where: string, options: T | undefined, keys: KeysOf<T>): void {
  const given: unknown = options === undefined ? {} : options,
    known = Object.keys(keys),
    all = known.length > 0 ? `the options are ${known.join(', ')}` : 'it takes no options';
  if (typeof given !== 'object' || given === null || Array.isArray(given))
    throw new UserError(`${where}: the options must be an object, got ${shown(given)}`, all);
  const unknown = Object.keys(given).find((key) => !Object.hasOwn(keys, key));
  if (unknown !== undefined) {
    const near = closest(unknown, known);
    throw new UserError(
      `${where}: there is no option named "${unknown}"`,
      near === null ? all : `did you mean "${near}"? ${all}`,
    );
  }
  for (const [key, kind] of Object.entries<Kind | Needed>(keys)) {
    const value = (given as Readonly<Record<string, unknown>>)[key];
    if (value === undefined && typeof kind === 'function') continue;
    if (value === undefined) throw new UserError(`${where}: the option "${key}" is missing`, all);
    const must = (typeof kind === 'function' ? kind : kind.needed)(value);
    if (must !== null) throw new UserError(`${where}: ${key} must be ${must}, got ${shown(value)}`);
  }
}

/**
 * Throws UserError for the first setting that is given but has no effect. `reasons`: for each setting, the reason why
 * it has no effect here; anything but a text means that it has one.
 */
export function refuseUnused<T extends object>(
  where: string,
  options: T,
  reasons: { readonly [K in keyof T]?: string | boolean | null | undefined },
): void {
  for (const key of Object.keys(reasons) as (keyof T & string)[]) {
    const reason = reasons[key];
    if (typeof reason === 'string' && options[key] !== undefined)
      throw new UserError(`${where}: ${key} has no effect here: ${reason}`, `leave ${key} out`);
  }
}

/** A value as text for an error message. */
export function shown(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}...` : value);
    case 'bigint':
      return `${value}n`;
    case 'function':
    case 'symbol':
      return `a ${typeof value}`;
    case 'object':
      return value === null ? 'null' : Array.isArray(value) ? 'a list' : 'an object';
    default:
      return String(value);
  }
}

/**
 * The name that was most likely meant: equal except for capitals, dashes and underscores, or with at most a third of
 * its letters wrong. null if there is none.
 */
export function closest(name: string, names: readonly string[]): string | null {
  const bare = (text: string): string => text.toLowerCase().replaceAll(/[-_\s]/g, ''),
    own = bare(name);
  let best: string | null = null,
    least = Infinity;
  for (const other of names) {
    const away = distance(own, bare(other));
    if (away < least && away <= Math.max(1, Math.floor(Math.max(own.length, other.length) / 3))) {
      best = other;
      least = away;
    }
  }
  return best;
}

/** The number of letters to insert, remove, replace or swap with their neighbour (optimal string alignment). */
function distance(a: string, b: string): number {
  let before: number[] = [],
    last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const other = a[i - 1] === b[j - 1] ? 0 : 1;
      row[j] = Math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + other);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        row[j] = Math.min(row[j], before[j - 2] + 1);
    }
    before = last;
    last = row;
  }
  return last[b.length];
}
