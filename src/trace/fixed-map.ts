// A Map that cannot be changed, not even by untyped code: set, delete and clear throw TypeError.

class FixedMap<K, V> extends Map<K, V> {
  #fixed = false;

  constructor(entries: Iterable<readonly [K, V]>) {
    super();
    for (const [key, value] of entries) super.set(key, value);
    this.#fixed = true;
  }

  override set(key: K, value: V): this {
    this.#refuse('set');
    return super.set(key, value);
  }

  override delete(key: K): boolean {
    this.#refuse('delete');
    return super.delete(key);
  }

  override clear(): void {
    this.#refuse('clear');
    super.clear();
  }

  #refuse(what: string): void {
    if (this.#fixed) throw new TypeError(`${what}: this Map cannot be changed`);
  }
}

export const fixedMap = <K, V>(entries: Iterable<readonly [K, V]>): ReadonlyMap<K, V> =>
  Object.freeze(new FixedMap(entries));
