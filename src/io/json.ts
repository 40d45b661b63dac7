// Lossless JSON: values that JSON would change silently are errors.

export type Json = string | number | boolean | null | readonly Json[] | { readonly [key: string]: Json | undefined };

/**
 * The JSON text of a value. Fields that are undefined are omitted. Throws, with the path, for NaN, infinities,
 * functions and class instances.
 */
export function jsonText(value: Json, indent?: number): string {
  checkJson(value, '$');
  return JSON.stringify(value, undefined, indent);
}

function checkJson(value: unknown, path: string): void {
  if (value === null || typeof value === 'string' || typeof value === 'boolean') return;
  if (typeof value === 'number') {
    if (!Number.isFinite(value)) throw new Error(`${path} is ${value}, which JSON cannot hold`);
  } else if (Array.isArray(value)) {
    value.forEach((item, i) => checkJson(item, `${path}[${i}]`));
  } else if (
    typeof value === 'object' &&
    [Object.prototype, null].includes(Object.getPrototypeOf(value) as object | null)
  ) {
    for (const [key, item] of Object.entries(value)) if (item !== undefined) checkJson(item, `${path}.${key}`);
  } else {
    throw new Error(`${path} is not plain data (${typeof value === 'object' ? value.constructor.name : typeof value})`);
  }
}
