// Settings as they were given. In: what a caller handed over, who may go on to write into it; out: a copy that nobody
// can write into.

/**
 * Copies lists and plain objects, however deep, and freezes the copies. Functions and objects of classes stay what they
 * are.
 */
export function fixedCopy<T>(value: T): T {
  if (Array.isArray(value)) return Object.freeze(value.map((each: unknown) => fixedCopy(each))) as T;
  if (typeof value !== 'object' || value === null || Object.getPrototypeOf(value) !== Object.prototype) return value;
  return Object.freeze(
    Object.fromEntries(Object.entries(value).map(([key, each]: [string, unknown]) => [key, fixedCopy(each)])),
  ) as T;
}
