// The programs of a session, by what they are for: compiled when they are first needed, kept while there is room.
import type { Graph } from '../graph/graph.ts';
import type { Runnable } from '../run/executor.ts';
import type { Backend, Compiling } from './backend.ts';

/** Programs that are kept; the one that was not used longest goes first. */
const KEPT = 32;

export class Programs {
  readonly #backend: Backend;
  readonly #states: (graph: Graph) => void;
  readonly #loaded = new Map<string, Runnable>();
  readonly #coming = new Map<string, Compiling>();
  #arena = 0;

  /** `states` creates the states that a graph needs. */
  constructor(backend: Backend, states: (graph: Graph) => void) {
    this.#backend = backend;
    this.#states = states;
  }

  /** Bytes of the largest arena so far. */
  get arena(): number { return this.#arena; }

  has(key: string): boolean { return this.#loaded.has(key); }

  /** Ready to run; between steps. */
  async get(key: string, graph: () => Graph): Promise<Runnable> {
    if (!this.has(key)) {
      const coming = this.begin(key, graph);
      try {
        // Kernels are compiled beside the making of starting values.
        coming.reserve(this.#states);
        await coming.ready;
        this.load(key);
      } catch (error) {
        this.#coming.delete(key);
        throw error;
      }
    }
    return this.#use(key);
  }

  /** Begins to compile, if that was not done; steps may go on. */
  begin(key: string, graph: () => Graph): Compiling {
    const found = this.#coming.get(key) ?? this.#backend.compile(graph());
    this.#coming.set(key, found);
    return found;
  }

  /** Takes the memory of a program that is ready; between steps. */
  load(key: string): void {
    const coming = this.#coming.get(key);
    if (this.has(key) || !coming) return;
    coming.reserve(this.#states);
    const made = coming.load();
    this.#coming.delete(key);
    this.#loaded.set(key, made);
    this.#arena = Math.max(this.#arena, made.bytes.arena);
    for (const [old, program] of this.#loaded) {
      if (this.#loaded.size <= KEPT) break;
      this.#loaded.delete(old);
      this.#backend.executor.release(program);
    }
  }

  /** Planned bytes of a program that is loaded or on its way. */
  bytes(key: string): number {
    const b = this.#loaded.get(key)?.bytes;
    return b ? b.arena + b.io + b.constants : this.#coming.get(key)?.bytes ?? 0;
  }

  /** Forgets one that could not be made. */
  drop(key: string): void { this.#coming.delete(key); }

  #use(key: string): Runnable {
    const program = this.#loaded.get(key);
    if (!program) throw new Error(`program ${key} is not loaded`);
    this.#loaded.delete(key);
    this.#loaded.set(key, program);
    return program;
  }
}
