// The compiled programs of a session by purpose and shapes: compiled when first needed, kept up to a limit of bytes.
import { asError } from '../base/errors.ts';
import { keepRecent } from '../base/recent.ts';
import { sameData } from '../base/same.ts';
import type { Graph } from '../graph/graph.ts';
import type { Compiled } from '../pipeline.ts';
import type { Caches, Runnable } from '../run/executor.ts';
import type { Knobs, Settings } from '../trace/knobs.ts';
import type { PublicState } from '../trace/public-state.ts';
import { memoryAdvice } from './advice.ts';
import { MemoryError, type Backend, type Compiling, type Planned } from './backend.ts';
import type { States } from './states.ts';

/**
 * KEPT: bytes of loaded programs, but at most SHARE of the session's memory limit; the least recently used program is
 * released first, and LEAST programs stay in any case, so that steps and evaluations in turns compile nothing. HOST:
 * what a program takes on the host (measured: 0.1 to 0.6 MB).
 */
const KEPT = 128 * 2 ** 20,
  SHARE = 1 / 8,
  LEAST = 4,
  HOST = 2 ** 19;
/**
 * LATEST: programs whose graphs are kept, to be resized. PLANS: plans that were requested but not compiled. PRICES:
 * bytes that plans need.
 */
const LATEST = 32,
  PLANS = 4,
  PRICES = 1024;
/** GRAPHS: traced graphs. SAME: keys that turned out to have the same graph as another key. */
const GRAPHS = 8,
  SAME = 256;
/** The arena is only shrunk if that frees more than 5% of it. */
const TRIM_BELOW = 0.95;

/** The family of a program, and the function that traces its graph. */
export interface Traced {
  readonly family: string;
  readonly graph: () => Graph;
}

/**
 * Identifies a program: its family (purpose and shapes of the batch), the number of the model's public state, and the
 * settings of knobs.
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
  readonly #compiling = new Map<string, Compiling>();
  /**
   * By family, what was compiled last: the next graph of a family often differs only in sizes. Least recently used
   * first.
   */
  readonly #latest = new Map<
    string,
    { readonly compiled: Compiled; readonly settings: Readonly<Record<string, Settings>>; readonly state: number }
  >();
  /**
   * By knobs and family, the graph that was traced last, and its key: a change of the model's public properties may
   * leave the graph the same.
   */
  readonly #traced = new Map<string, { readonly graph: Graph; readonly key: ProgramKey }>();
  /** Keys that have the same graph as another key, which has the program. */
  readonly #same = new Map<string, ProgramKey>();
  /** The last result of `key`, before `#same`, and the key of its knobs: the next step mostly asks for it again. */
  #asked: { readonly knobs: string; readonly last: ProgramKey | null } = { knobs: '', last: null };
  readonly #kernels = new Map<string, string>();
  /** Plans that were not compiled, and the bytes that plans need. */
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

  /** The largest arena so far in bytes. */
  get arena(): number {
    return this.#arena;
  }

  /** The key of a family's program under the current settings. */
  key(family: string): ProgramKey {
    const state = this.#state.number(),
      knobs = this.#knobs.key();
    let { last } = this.#asked;
    if (last?.family !== family || last.state !== state || this.#asked.knobs !== knobs) {
      last = { family, state, text: `${knobs} ${state} ${family}` };
      this.#asked = { knobs, last };
    }
    return this.#same.get(last.text) ?? last;
  }

  has({ text }: ProgramKey): boolean {
    return this.#loaded.has(text);
  }

  /**
   * Traces now, if needed, under the current settings. Returns a function that gives the program, ready to run with
   * these caches: at once if it is loaded, else by a promise. Call that function between steps.
   */
  ask(family: string, graph: () => Graph, caches?: Caches): () => Runnable | Promise<Runnable> {
    const key = this.keyOfTraced(family, graph),
      coming = this.has(key) ? null : this.begin(family, graph);
    const use = (): Runnable => this.#use(key, caches);
    return () => (coming && !this.has(key) ? this.#finishCompiling(key, coming, graph).then(use) : use());
  }

  async #finishCompiling(key: ProgramKey, coming: Compiling, graph: () => Graph): Promise<void> {
    try {
      const fresh = coming.reserve((of) => this.#states.create(of), true);
      // Waits for both, even if one fails: until then the device is writing initial values.
      const failed = (await Promise.allSettled([coming.ready, this.#states.draw(fresh)])).find(
        (p) => p.status === 'rejected',
      );
      if (failed) throw asError(failed.reason);
      this.load(key);
    } catch (error) {
      this.drop(key);
      const advice =
        error instanceof MemoryError
          ? memoryAdvice(this.#knobs, () => this.needs(key.family, graph), this.#backend.budget().bytes)
          : null;
      throw error instanceof MemoryError && advice !== null ? error.with(advice) : error;
    }
  }

  /** Compiles, loads and returns the program. */
  async get(family: string, graph: () => Graph, caches?: Caches): Promise<Runnable> {
    return this.ask(family, graph, caches)();
  }

  /**
   * If the model's public state has changed: traces again, and if the graph is the same, uses the existing program.
   * Returns the key of the program.
   */
  keyOfTraced(family: string, graph: () => Graph): ProgramKey {
    const key = this.key(family),
      { text } = key;
    if (this.#loaded.has(text) || this.#compiling.has(text) || this.#planned.has(text)) return key;
    const before = this.#traced.get(`${this.#knobs.key()} ${family}`);
    if (!before || before.key.state === key.state || !this.has(before.key)) return key;
    const made = graph();
    if (!sameData(before.graph, made)) this.#planned.set(text, this.#made(key, made));
    else return keepRecent(this.#same, text, before.key, SAME);
    // Tracing may have changed the model's public state.
    return this.key(family);
  }

  /**
   * Bytes that the session would hold with a family's program under the current settings. Plans, but does not compile.
   */
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

  /** Frees arena memory that these programs do not need. */
  trim(keys: readonly ProgramKey[]): void {
    const { executor } = this.#backend,
      loaded = keys.length === 0 ? [Infinity] : keys.map(({ text }) => this.#loaded.get(text)?.bytes.arena),
      arena = Math.max(...loaded.map((n) => n ?? Infinity));
    if (arena < TRIM_BELOW * executor.arenaBytes()) executor.trim(arena);
  }

  /**
   * Starts to compile a program under the current settings, if that has not started; steps may run at the same time.
   */
  begin(family: string, graph: () => Graph): Compiling {
    return this.beginResized(family) ?? this.#began(family, this.#plan(family, graph).begin());
  }

  /**
   * The same if the program differs only in sizes from the one compiled last, which takes a few milliseconds and no
   * compiler; otherwise null.
   */
  beginResized(family: string): Compiling | null {
    const found = this.#compiling.get(this.key(family).text) ?? this.#replanned(family)?.begin();
    return found ? this.#began(family, found) : null;
  }

  #began(family: string, found: Compiling): Compiling {
    const { text } = this.key(family);
    this.#compiling.set(text, found);
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

  /** Marks a family as the most recently used. */
  #keepLatest(family: string, latest = this.#latest.get(family)): void {
    if (latest) keepRecent(this.#latest, family, latest, LATEST);
  }

  #replanned(family: string): Planned | null {
    const like = this.#latest.get(family),
      edits = like?.state === this.#state.number() ? this.#knobs.edits(like.compiled.graph, like.settings) : null;
    const plan = like && edits ? this.#backend.replan(like.compiled, edits) : null;
    return plan && this.#priced(this.key(family).text, plan);
  }

  /**
   * Allocates the memory of a compiled program and loads it; call it between steps. runsNext: as in
   * `Compiling.reserve`.
   */
  load(key: ProgramKey, runsNext = false): void {
    const coming = this.#compiling.get(key.text);
    if (this.has(key) || !coming) return;
    this.#states.start(coming.reserve((of) => this.#states.create(of), runsNext));
    const made = coming.load();
    this.#compiling.delete(key.text);
    this.#loaded.set(key.text, made);
    this.#arena = Math.max(this.#arena, made.bytes.arena);
    this.#release(Math.min(KEPT, SHARE * this.budget().bytes));
  }

  /** Releases programs that were not used for the longest time, until the others hold at most `most` bytes. */
  #release(most: number): void {
    const own = ({ bytes: { io, constants } }: Runnable): number => io + constants + HOST;
    let held = [...this.#loaded.values()].reduce((n, program) => n + own(program), 0);
    for (const [old, program] of this.#loaded) {
      if (held <= most || this.#loaded.size <= LEAST) break;
      held -= own(program);
      this.#loaded.delete(old);
      this.#kernels.delete(old);
      this.#backend.executor.release(program);
    }
  }

  /** Planned bytes of a program that is loaded, being compiled, or planned. */
  bytes({ text }: ProgramKey): number {
    const b = this.#loaded.get(text)?.bytes;
    return b ? b.arena + b.io + b.constants : (this.#compiling.get(text)?.bytes ?? this.#prices.get(text)?.bytes ?? 0);
  }

  /** A text that is equal for programs that run the same kernels; null on the reference. */
  kernels({ text }: ProgramKey): string | null {
    return this.#kernels.get(text) ?? null;
  }

  /** Forgets a program whose compilation failed or was abandoned. */
  drop({ text }: ProgramKey): void {
    this.#compiling.delete(text);
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
