// JSON that comes back as it went in. In: a value of plain data; out: its text. What JSON would silently change is an
// error.

export type Json = string | number | boolean | null | readonly Json[] | { readonly [key: string]: Json | undefined };

/**
 * The text of a value. Throws for NaN, infinities, functions and class instances, naming the path; undefined fields are
 * left out.
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
