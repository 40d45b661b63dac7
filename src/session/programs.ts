// The programs of a session, by what they are for: compiled when they are first needed, kept while there is room.
import { keepRecent } from '../base/recent.ts';
import { sameData } from '../base/same.ts';
import type { Graph } from '../graph/graph.ts';
import type { Compiled } from '../pipeline.ts';
import { asError } from '../recompile/pending.ts';
import type { Caches, Runnable } from '../run/executor.ts';
import type { Knobs, Settings } from '../trace/knobs.ts';
import type { PublicState } from '../trace/public-state.ts';
import { roomier } from './advice.ts';
import { MemoryError, type Backend, type Compiling, type Planned } from './backend.ts';
import type { States } from './states.ts';

/**
 * Programs that are kept; the one that was not used longest goes first. Of plans that were asked for and not compiled a
 * few, and what many came to.
 */
const KEPT = 32,
  PLANS = 4,
  PRICES = 1024;
/** Graphs as they were traced, and keys that were found to be another's. */
const GRAPHS = 8,
  SAME = 256;
/** A smaller arena is worth being taken from anew. */
const WORTH = 0.95;

/** A program by its family, and how to trace it. */
export interface Traced {
  readonly family: string;
  readonly graph: () => Graph;
}

/**
 * Programs of one purpose and one shape of batch are a family; settings of knobs and the model's public state, by its
 * number, tell them apart.
 */
export interface ProgramKey {
  readonly family: string;
  readonly state: number;
  readonly text: string;
}

export class Programs {
  readonly #backend: Backend;
  readonly #knobs: Knobs;
  readonly #state: Pick<PublicState, 'number'>;
  readonly #states: Pick<States, 'create' | 'draw' | 'start'>;
  readonly #loaded = new Map<string, Runnable>();
  readonly #coming = new Map<string, Compiling>();
  /**
   * By family, what was compiled last: others are often like it but for their sizes. The family that was not used
   * longest goes first.
   */
  readonly #latest = new Map<
    string,
    { readonly compiled: Compiled; readonly settings: Readonly<Record<string, Settings>>; readonly state: number }
  >();
  /**
   * By knobs and family, what was traced last, and its key: public properties of a model may change without any effect
   * on the graph.
   */
  readonly #traced = new Map<string, { readonly graph: Graph; readonly key: ProgramKey }>();
  /** Keys whose graph is that of another. */
  readonly #same = new Map<string, ProgramKey>();
  readonly #kernels = new Map<string, string>();
  /** Planned and not begun; and what such plans come to. */
  readonly #planned = new Map<string, Planned>();
  readonly #prices = new Map<string, Pick<Planned, 'bytes' | 'needs'>>();
  #arena = 0;

  constructor(
    backend: Backend,
    { knobs, state }: { readonly knobs: Knobs; readonly state: Pick<PublicState, 'number'> },
    states: Pick<States, 'create' | 'draw' | 'start'>,
  ) {
    this.#backend = backend;
    this.#knobs = knobs;
    this.#state = state;
    this.#states = states;
  }

  /** Bytes of the largest arena so far. */
  get arena(): number {
    return this.#arena;
  }

  /** The key of a family's program under the settings of now. */
  key(family: string): ProgramKey {
    const state = this.#state.number(),
      text = `${this.#knobs.key()} ${state} ${family}`;
    return this.#same.get(text) ?? { family, state, text };
  }

  has({ text }: ProgramKey): boolean {
    return this.#loaded.has(text);
  }

  /**
   * Traces at once what was not traced under the settings of now. The program is ready to run, on these caches, when
   * what this gives has been called and has settled; between steps. Where the program is there it is given at once.
   */
  ask(family: string, graph: () => Graph, caches?: Caches): () => Runnable | Promise<Runnable> {
    const key = this.settle(family, graph),
      coming = this.has(key) ? null : this.begin(family, graph);
    const use = (): Runnable => this.#use(key, caches);
    return () => (coming && !this.has(key) ? this.#come(key, coming, graph).then(use) : use());
  }

  async #come(key: ProgramKey, coming: Compiling, graph: () => Graph): Promise<void> {
    try {
      const fresh = coming.reserve((of) => this.#states.create(of), true);
      // Both are waited for, whatever fails: the device makes starting values until then.
      const failed = (await Promise.allSettled([coming.ready, this.#states.draw(fresh)])).find(
        (p) => p.status === 'rejected',
      );
      if (failed) throw asError(failed.reason);
      this.load(key);
    } catch (error) {
      this.drop(key);
      const advice =
        error instanceof MemoryError
          ? roomier(this.#knobs, () => this.needs(key.family, graph), this.#backend.budget().bytes)
          : null;
      throw error instanceof MemoryError && advice !== null ? error.with(advice) : error;
    }
  }

  /** The same, called at once. */
  async get(family: string, graph: () => Graph, caches?: Caches): Promise<Runnable> {
    return this.ask(family, graph, caches)();
  }

  /**
   * Where the model's public state is another than before: traces, and where that gives the same graph takes the
   * program that there is. Gives its key.
   */
  settle(family: string, graph: () => Graph): ProgramKey {
    const key = this.key(family),
      { text } = key;
    if (this.#loaded.has(text) || this.#coming.has(text) || this.#planned.has(text)) return key;
    const before = this.#traced.get(`${this.#knobs.key()} ${family}`);
    if (!before || before.key.state === key.state || !this.has(before.key)) return key;
    const made = graph();
    if (!sameData(before.graph, made)) this.#planned.set(text, this.#made(key, made));
    else return keepRecent(this.#same, text, before.key, SAME);
    // Tracing may have written on the model itself.
    return this.key(family);
  }

  /** Bytes that the session would hold with a family's program under the settings of now: planned, not compiled. */
  needs(family: string, graph: () => Graph): number {
    const { text } = this.key(family);
    if (!this.#prices.has(text)) this.#plan(family, graph);
    return this.#prices.get(text)?.needs() ?? 0;
  }

  #plan(family: string, graph: () => Graph): Planned {
    const key = this.key(family),
      { text } = key;
    return keepRecent(
      this.#planned,
      text,
      this.#planned.get(text) ?? this.#replanned(family) ?? this.#made(key, graph()),
      PLANS,
    );
  }

  #made(key: ProgramKey, graph: Graph): Planned {
    keepRecent(this.#traced, `${this.#knobs.key()} ${key.family}`, { graph, key }, GRAPHS);
    return this.#priced(key.text, this.#backend.plan(graph));
  }

  #priced(text: string, plan: Planned): Planned {
    if (this.#prices.size >= PRICES) this.#prices.clear();
    this.#prices.set(text, { bytes: plan.bytes, needs: plan.needs });
    return plan;
  }

  budget(): { bytes: number; given: boolean } {
    return this.#backend.budget();
  }

  /** Gives back what is held beyond the needs of these programs. */
  trim(keys: readonly ProgramKey[]): void {
    const { executor } = this.#backend,
      loaded = keys.length === 0 ? [Infinity] : keys.map(({ text }) => this.#loaded.get(text)?.bytes.arena),
      arena = Math.max(...loaded.map((n) => n ?? Infinity));
    if (arena < WORTH * executor.arenaBytes()) executor.trim(arena);
  }

  /** Begins to compile, under the settings of now, if that was not done; steps may go on. */
  begin(family: string, graph: () => Graph): Compiling {
    return this.beginResized(family) ?? this.#began(family, this.#plan(family, graph).begin());
  }

  /**
   * The same where sizes alone differ from what was compiled last, which takes a few milliseconds and no compiler; else
   * null.
   */
  beginResized(family: string): Compiling | null {
    const found = this.#coming.get(this.key(family).text) ?? this.#replanned(family)?.begin();
    return found ? this.#began(family, found) : null;
  }

  #began(family: string, found: Compiling): Compiling {
    const { text } = this.key(family);
    this.#coming.set(text, found);
    this.#planned.delete(text);
    if (found.compiled)
      this.#kernels.set(
        text,
        found.compiled.kernels
          .map((k) => k.key)
          .sort()
          .join(),
      );
    if (found.compiled && this.#knobs.paths.length > 0)
      this.#keepLatest(family, { compiled: found.compiled, settings: this.#knobs.all(), state: this.#state.number() });
    return found;
  }

  /** Graphs of families that were not used for long go, as their programs do. */
  #keepLatest(family: string, latest = this.#latest.get(family)): void {
    if (latest) keepRecent(this.#latest, family, latest, KEPT);
  }

  #replanned(family: string): Planned | null {
    const like = this.#latest.get(family),
      edits = like?.state === this.#state.number() ? this.#knobs.edits(like.compiled.graph, like.settings) : null;
    const plan = like && edits ? this.#backend.replan(like.compiled, edits) : null;
    return plan && this.#priced(this.key(family).text, plan);
  }

  /** Takes the memory of a program that is ready; between steps. alone: it runs next. */
  load(key: ProgramKey, alone = false): void {
    const coming = this.#coming.get(key.text);
    if (this.has(key) || !coming) return;
    this.#states.start(coming.reserve((of) => this.#states.create(of), alone));
    const made = coming.load();
    this.#coming.delete(key.text);
    this.#loaded.set(key.text, made);
    this.#arena = Math.max(this.#arena, made.bytes.arena);
    for (const [old, program] of this.#loaded) {
      if (this.#loaded.size <= KEPT) break;
      this.#loaded.delete(old);
      this.#kernels.delete(old);
      this.#backend.executor.release(program);
    }
  }

  /** Planned bytes of a program that is loaded or on its way, or that was asked for. */
  bytes({ text }: ProgramKey): number {
    const b = this.#loaded.get(text)?.bytes;
    return b ? b.arena + b.io + b.constants : (this.#coming.get(text)?.bytes ?? this.#prices.get(text)?.bytes ?? 0);
  }

  /** Text that is the same for programs that run the same kernels; null where there are none. */
  kernels({ text }: ProgramKey): string | null {
    return this.#kernels.get(text) ?? null;
  }

  /** Forgets one that could not be made. */
  drop({ text }: ProgramKey): void {
    this.#coming.delete(text);
    if (!this.#loaded.has(text)) this.#kernels.delete(text);
  }

  #use({ family, text }: ProgramKey, caches?: Caches): Runnable {
    const program = this.#loaded.get(text);
    if (!program) throw new Error(`program ${text} is not loaded`);
    this.#keepLatest(family);
    this.#backend.admit(program, caches);
    this.#loaded.delete(text);
    this.#loaded.set(text, program);
    return program;
  }
}
