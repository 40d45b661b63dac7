// Caches that belong to one caller each (`openCaches`). State: what the executor stores for a state.
import { UserError } from '../base/errors.ts';
import type { Caches } from './executor.ts';

export class OwnCaches<State> implements Caches {
  readonly states = new Map<string, State>();
  readonly #sizes: (states: Iterable<State>) => number;
  readonly #end: (caches: OwnCaches<State>) => void;

  constructor(sizes: (states: Iterable<State>) => number, end: (caches: OwnCaches<State>) => void) {
    this.#sizes = sizes;
    this.#end = end;
  }

  get bytes(): number {
    return this.#sizes(this.states.values());
  }
  close(): void {
    this.#end(this);
  }
}

/** The open caches of one executor. */
export class OpenCaches<State> {
  readonly #open = new Set<OwnCaches<State>>();
  readonly #bytes: (states: Iterable<State>) => number;
  readonly #free: (caches: OwnCaches<State>) => void;

  /** bytes: counts the bytes of states. free: frees the memory of caches. */
  constructor(bytes: (states: Iterable<State>) => number, free: (caches: OwnCaches<State>) => void) {
    this.#bytes = bytes;
    this.#free = free;
  }

  open(): OwnCaches<State> {
    const made = new OwnCaches(this.#bytes, (caches) => {
      this.#close(caches);
    });
    this.#open.add(made);
    return made;
  }

  #close(caches: OwnCaches<State>): void {
    if (!this.#open.delete(caches)) return;
    this.#free(caches);
    caches.states.clear();
  }

  /**
   * The caches passed to a run; null if none were passed, which means the shared ones. Throws UserError if they are
   * not open here.
   */
  of(caches: Caches | undefined): OwnCaches<State> | null {
    if (caches === undefined) return null;
    for (const own of this.#open) if (own === caches) return own;
    throw new UserError('these caches are closed, or of another session', 'session.openCaches() gives some');
  }

  get all(): readonly OwnCaches<State>[] {
    return [...this.#open];
  }
  closeAll(): void {
    for (const caches of this.all) this.#close(caches);
  }
}
