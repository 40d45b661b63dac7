// Kinds of values that options may have: a function that gives null for a value of the kind, or else text for an error
// that says what the value must be. A kind says only what makes a value one of its type (a number, a size, a list).
// Where a function takes a narrower range, with a message of its own, it checks that itself.

/** null for a value of this kind; else what it must be: 'a number of at least 0'. */
export type Kind = (value: unknown) => string | null;

/** The kind of an option that must be given. */
export interface Needed {
  readonly needed: Kind;
}
export const needed = (kind: Kind): Needed => ({ needed: kind });

const of =
  (what: string, is: (value: unknown) => boolean): Kind =>
  (value) =>
    is(value) ? null : what;
const number = (what: string, fits: (x: number) => boolean): Kind =>
  of(what, (value) => typeof value === 'number' && fits(value));

/** Any number, also NaN and infinities: the function checks the range. */
export const aNumber: Kind = number('a number', () => true);
export const aFinite: Kind = number('a finite number', Number.isFinite);
export const atLeast0: Kind = number('a finite number of at least 0', (x) => Number.isFinite(x) && x >= 0);
export const above0: Kind = number('a finite number above 0', (x) => Number.isFinite(x) && x > 0);
/** A limit of memory or time. Infinity: no limit. */
export const aLimit: Kind = number('a number above 0', (x) => x > 0);
export const aWhole = (least: number, most = Number.MAX_SAFE_INTEGER): Kind => {
  const range = most === Number.MAX_SAFE_INTEGER ? `of at least ${least}` : `from ${least} to ${most}`;
  return number(`a whole number ${range}`, (x) => Number.isSafeInteger(x) && x >= least && x <= most);
};
/** The size of a dimension. */
export const aSize: Kind = aWhole(1, 2 ** 31 - 1);
export const aFlag: Kind = of('true or false', (value) => typeof value === 'boolean');
export const aText: Kind = of('a text', (value) => typeof value === 'string');
export const aName: Kind = of('a text that is not empty', (value) => typeof value === 'string' && value !== '');
export const aFunction: Kind = of('a function', (value) => typeof value === 'function');
/** A list or a typed array. */
export const aList: Kind = of(
  'a list',
  (value) => Array.isArray(value) || (ArrayBuffer.isView(value) && 'length' in value),
);
/** An object that is no list. */
export const anObject: Kind = of(
  'an object',
  (value) => typeof value === 'object' && value !== null && !Array.isArray(value),
);
const has = (value: unknown, method: string): boolean =>
  typeof (value as Readonly<Record<string, unknown>> | null | undefined)?.[method] === 'function';
/** An object (or a class) with a method of this name. */
export const anObjectWith = (method: string): Kind =>
  of(`an object with a function ${method}`, (value) => has(value, method));
export const oneOf = (...names: readonly string[]): Kind =>
  of(`one of ${names.join(', ')}`, (value) => names.includes(value as string));
export const either =
  (...kinds: readonly Kind[]): Kind =>
  (value) => {
    const all = kinds.map((kind) => kind(value));
    return all.includes(null) ? null : all.join(', or ');
  };
/** Any value: the function that takes it checks it. */
export const anything: Kind = () => null;
