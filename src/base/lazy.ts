// A part of the library that not every program needs.

/** A part that is there from the start, or is loaded when it is first asked for. */
export interface Lazy<T> {
  /** null: it is not loaded yet. */
  readonly here: T | null;
  /** Loads it. Rejects if that fails; the next call tries again. */
  load(): Promise<T>;
}

export const present = <T>(part: T): Lazy<T> => ({ here: part, load: () => Promise.resolve(part) });

/** from: an `import()`, which bundlers make a file of its own. */
export function loadedBy<T>(from: () => Promise<T>): Lazy<T> {
  let here: T | null = null;
  return {
    get here() {
      return here;
    },
    load: async () => (here ??= await from()),
  };
}
