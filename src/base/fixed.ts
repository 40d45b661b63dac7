// Copies settings, so that a caller who changes an object later does not change them.

/**
 * Copies lists and plain objects, however deep, and freezes the copies. Functions and objects of classes are not
 * copied.
 */
export function fixedCopy<T>(value: T): T {
  if (Array.isArray(value)) return Object.freeze(value.map((each: unknown) => fixedCopy(each))) as T;
  if (typeof value !== 'object' || value === null || Object.getPrototypeOf(value) !== Object.prototype) return value;
  return Object.freeze(
    Object.fromEntries(Object.entries(value).map(([key, each]: [string, unknown]) => [key, fixedCopy(each)])),
  ) as T;
}
