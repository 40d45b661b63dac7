// Options objects: a key that nothing reads, or a setting that nothing would follow from, is an error. In: what a caller gave, and the keys that
// the function reads; out: nothing, or a UserError that names the key.
import { UserError } from './errors.ts';

/** All keys of an options type, and whether each must be given: the compiler refuses a list that lacks a key, has one too many, or says it wrongly. */
export type KeysOf<T extends object> = { readonly [K in keyof T]-?: object extends Pick<T, K> ? 'optional' : 'required' };

/** Throws UserError if `options` is no object, has a key that is not among `keys`, or lacks one that must be given. undefined stands for no options.
 * `where`: the name of the class or function that was called. */
export function checkOptions<T extends object>(where: string, options: T | undefined, keys: KeysOf<T>): void {
  const given: unknown = options === undefined ? {} : options, known = Object.keys(keys), all = known.length > 0 ? `the options are ${known.join(', ')}` : 'it takes no options';
  if (typeof given !== 'object' || given === null || Array.isArray(given)) throw new UserError(`${where}: the options must be an object, got ${shown(given)}`, all);
  const unknown = Object.keys(given).find((key) => !Object.hasOwn(keys, key));
  if (unknown !== undefined) {
    const near = closest(unknown, known);
    throw new UserError(`${where}: there is no option named "${unknown}"`, near === null ? all : `did you mean "${near}"? ${all}`);
  }
  const missing = known.find((key) => keys[key as keyof T] === 'required' && (given as Readonly<Record<string, unknown>>)[key] === undefined);
  if (missing !== undefined) throw new UserError(`${where}: the option "${missing}" is missing`, all);
}

/** Throws UserError for the first setting that is given although nothing follows from it. `reasons`: for each setting that may have no effect, why it
 * has none here; anything but a text means that it has one. */
export function refuseUnused<T extends object>(where: string, options: T, reasons: { readonly [K in keyof T]?: string | boolean | null | undefined }): void {
  for (const key of Object.keys(reasons) as (keyof T & string)[]) {
    const reason = reasons[key];
    if (typeof reason === 'string' && options[key] !== undefined) throw new UserError(`${where}: ${key} has no effect here: ${reason}`, `leave ${key} out`);
  }
}

const shown = (value: unknown): string => (value === null ? 'null' : Array.isArray(value) ? 'a list' : typeof value === 'function' ? 'a function' : JSON.stringify(value) ?? typeof value);

/** The name that was most likely meant: the same but for capitals, dashes and underscores, or at most a third of its letters away; null: none. */
export function closest(name: string, names: readonly string[]): string | null {
  const bare = (text: string): string => text.toLowerCase().replaceAll(/[-_\s]/g, ''), own = bare(name);
  let best: string | null = null, least = Infinity;
  for (const other of names) {
    const away = distance(own, bare(other));
    if (away < least && away <= Math.max(1, Math.floor(Math.max(own.length, other.length) / 3))) { best = other; least = away; }
  }
  return best;
}

/** Letters to insert, remove, replace or swap with their neighbour (optimal string alignment). */
function distance(a: string, b: string): number {
  let before: number[] = [], last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const other = a[i - 1] === b[j - 1] ? 0 : 1;
      row[j] = Math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + other);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) row[j] = Math.min(row[j], before[j - 2] + 1);
    }
    before = last;
    last = row;
  }
  return last[b.length];
}
