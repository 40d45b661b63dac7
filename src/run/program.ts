// The executor of programs on a device.
import { hostArray, type DType, type TypedArray } from '../base/dtype.ts';
import { UserError, VerifyError } from '../base/errors.ts';
import type { HostTensor } from '../base/tensor.ts';
import { byteSize, elements, sizes, type TensorType } from '../base/shape.ts';
import type { Bound, BoundStep, Device, Memory, Place } from '../device/device.ts';
import type { Layout } from '../graph/state.ts';
import type { Port, Program } from '../plan/program.ts';
import { OpenCaches, type OwnCaches } from './caches.ts';
import {
  checkInput,
  checkPart,
  checkState,
  hostOf,
  inUse,
  isCache,
  isClosed,
  noState,
  type Caches,
  type Drawn,
  type Executor,
  type Runnable,
  type StatePart,
} from './executor.ts';
import { bindDraws } from './draws.ts';
import type { RankRuns } from './rank-runs.ts';
import { arranged, newState, peek, reading, write, type State } from './state-memory.ts';
import { Turns } from './turns.ts';

type Own = OwnCaches<State>;

export interface LoadedProgram extends Runnable {
  readonly program: Program;
  /** The memory of inputs and outputs, and the memory of constants. */
  readonly memories: readonly [io: Memory, constants: Memory];
  /** uses: names of its states. caches: those states that are caches. */
  readonly uses: ReadonlySet<string>;
  readonly caches: readonly Port[];
  /** Its current table of steps; replaced after the arena has moved. */
  readonly bound: Bound;
}

/**
 * A program's table of steps and the place of each planned tensor, for one caller's caches and the current arena.
 */
interface Binding {
  readonly bound: Bound;
  readonly places: readonly Place[];
}

export class ProgramExecutor implements Executor<LoadedProgram> {
  readonly device: Device;
  /** Duration of the device's last run in ms. */
  callMs = 0;
  readonly #states = new Map<string, State>();
  readonly #caches = new OpenCaches<State>(bytesOf, (caches) => {
    this.#forget(caches);
  });
  /** All programs share one arena, because they run one after the other. */
  #arena: Memory | null = null;
  /** By program and caches, its binding. Key null: the shared caches. */
  readonly #loaded = new Map<LoadedProgram, Map<Own | null, Binding>>();
  readonly #turns = new Turns();
  /** The states that the current run uses, and those that it may change. */
  #current: Pick<LoadedProgram, 'uses' | 'stores'> = { uses: NONE, stores: NONE };
  #closed: Promise<void> | null = null;
  readonly #ranks: RankRuns | null;

  /** ranks: this executor is one of several that run the same programs. */
  constructor(device: Device, ranks: RankRuns | null = null) {
    this.device = device;
    this.#ranks = ranks;
  }

  get description(): string {
    return this.device.info.description;
  }
  get threads(): number {
    return this.device.info.threads;
  }

  setState(name: string, type: TensorType, value: TypedArray | null): void {
    const found = this.#states.get(name);
    if (found) checkState(name, found.type, type);
    if (value) checkInput(name, type, value);
    const state = found ? this.#writable(name) : this.#createState(this.#states, name, type);
    // new memory is 0 already
    if (found || value) write(this.device, state, 0, value ?? hostArray(type.dtype, elements(type.shape)));
  }

  setPart(name: string, at: number, data: TypedArray): void {
    const state = this.#writable(name);
    write(this.device, state, at, checkPart(name, state.type, at, data));
  }

  #createState(states: Map<string, State>, name: string, type: TensorType): State {
    this.#open();
    const state = newState(this.device, type);
    states.set(name, state);
    return state;
  }

  removeStates(names: readonly string[]): void {
    for (const name of names) {
      const { memory } = this.#state(name);
      this.#states.delete(name);
      this.#turns.whenIdle(() => {
        this.device.free(memory);
      });
    }
  }

  async draw(states: readonly Drawn[], seed: number): Promise<void> {
    if (states.length === 0) return;
    await this.#turns.take(
      () => {
        const names = new Set(states.map((s) => s.name));
        this.#current = { uses: names, stores: names };
        return bindDraws(this.device, (name) => this.#state(name), states, seed);
      },
      ({ bound, tables }) =>
        bound.run().finally(() => {
          bound.dispose();
          this.device.free(tables);
        }),
    );
  }

  async getState(name: string): Promise<HostTensor> {
    const { type } = this.#readable(name),
      [value] = await this.getParts([{ name, at: 0, count: elements(type.shape) }]);
    return hostOf(type, value);
  }

  async getParts(parts: readonly StatePart[]): Promise<TypedArray[]> {
    const reads = parts.map(({ name, at, count }) => {
      const state = this.#readable(name);
      checkPart(name, state.type, at, count);
      return { ...reading(this.device, state, at, count), memory: state.memory };
    });
    await this.device.read(
      reads.map(({ memory, at, into }) => ({ place: { memory, offset: at * into.BYTES_PER_ELEMENT }, into })),
    );
    return reads.map((read) => read.value());
  }

  peekState(name: string): HostTensor {
    const state = this.#readable(name),
      { type } = state;
    if (!state.memory.peek)
      throw new UserError(
        `state ${name}: device ${this.device.info.name} cannot read its memory at once`,
        'await readAsync() of the state',
      );
    return hostOf(type, peek(this.device, state, 0, elements(type.shape)));
  }

  /** Moves a state to the layout in which a program expects it, unless a loaded program finds it in its present one. */
  #arrange(name: string, layout: Layout): void {
    const old = this.#state(name);
    if (old.layout === layout) return;
    const used = [...this.#loaded.keys()].some((l) => l.uses.has(name)),
      state = used ? null : arranged(this.device, this.#writable(name), layout);
    if (!state)
      throw new VerifyError('run', `the state ${name} lies in ${old.layout}, a program expects it in ${layout}`);
    this.#states.set(name, state);
    if (state.memory !== old.memory)
      this.#turns.whenIdle(() => {
        this.device.free(old.memory);
      });
  }

  #state(name: string): State {
    this.#open();
    const found = this.#states.get(name);
    if (!found) throw noState(name);
    return found;
  }

  #writable(name: string): State {
    if (this.#turns.running && this.#current.uses.has(name)) throw inUse(name);
    return this.#state(name);
  }

  #readable(name: string): State {
    if (this.#turns.running && this.#current.stores.has(name)) throw inUse(name);
    return this.#state(name);
  }

  #open(): void {
    if (this.#closed) throw isClosed('the executor');
  }

  typeOf(name: string): { readonly dtype: DType; readonly shape: readonly number[] } {
    const { dtype, shape } = this.#state(name).type;
    return { dtype, shape: sizes(shape) };
  }

  layoutOf(name: string): Layout {
    return this.#state(name).layout;
  }

  stateNames(): string[] {
    return [...this.#states.keys()];
  }

  stateBytes(caches = true): number {
    const own = [...this.#states].flatMap(([name, s]) => (!caches && isCache(name) ? [] : [s]));
    return bytesOf(own) + (caches ? this.#caches.all.reduce((n, c) => n + c.bytes, 0) : 0);
  }

  openCaches(): Caches {
    this.#open();
    return this.#caches.open();
  }

  freshCaches(l: LoadedProgram, caches?: Caches): number {
    if (l.caches.length === 0) return 0;
    const states = this.#caches.of(caches)?.states ?? this.#states;
    return l.caches.reduce((n, { name, type }) => n + (states.has(name) ? 0 : byteSize(type)), 0);
  }

  #forget(caches: Own): void {
    for (const bindings of this.#loaded.values()) this.#unbind(bindings, caches);
    for (const { memory } of caches.states.values())
      this.#turns.whenIdle(() => {
        this.device.free(memory);
      });
  }

  arenaBytes(): number {
    return this.#arena?.bytes ?? 0;
  }

  /** Enlarges the arena if a program needs more. */
  reserve({ slabs: { arena } }: Program): void {
    if (arena > this.arenaBytes()) this.#resizeArena(arena);
  }

  trim(bytes: number): void {
    if (bytes < this.arenaBytes()) this.#resizeArena(bytes);
  }

  #resizeArena(bytes: number): void {
    this.#open();
    const old = this.#arena,
      beside = this.#turns.running;
    // The arena holds nothing between runs. If nothing is running, the old one is freed first, so that both need not
    // fit into memory.
    if (old && !beside) {
      this.#arena = null;
      this.device.free(old);
    }
    try {
      this.#arena = this.device.alloc(bytes);
      if (old && beside)
        this.#turns.whenIdle(() => {
          this.device.free(old);
        });
    } catch (error) {
      // Tries to get the old size again. If that fails too, the next run allocates an arena, or throws.
      if (old && !beside)
        try {
          this.#arena = this.device.alloc(old.bytes);
        } catch {
          /* the next run tries again */
        }
      throw error;
    } finally {
      // Tables that point into the old arena are released; the next run of their programs makes new ones.
      if (this.#arena !== old)
        for (const bindings of this.#loaded.values())
          for (const caches of [...bindings.keys()]) this.#unbind(bindings, caches);
    }
  }

  /**
   * Loads a program. Its kernels must be compiled and its states (except caches) must exist. Allocates all its memory,
   * or throws and allocates nothing.
   */
  load(program: Program): LoadedProgram {
    this.#ranks?.load(program);
    for (const { name, type } of program.states) if (!isCache(name)) checkState(name, this.#state(name).type, type);
    this.reserve(program);
    for (const { name, layout } of program.states) if (!isCache(name)) this.#arrange(name, layout);
    const memories: Memory[] = [],
      { slabs, tensors } = program;
    try {
      for (const bytes of [slabs.io, slabs.constants]) memories.push(this.device.alloc(bytes));
      const bound = (): Bound => this.#bindingOf(loaded).bound;
      const loaded: LoadedProgram = {
        program,
        get bound() {
          return bound();
        },
        memories: memories as [Memory, Memory],
        bytes: slabs,
        stores: storesOf(program),
        uses: new Set(program.states.map((s) => s.name)),
        caches: program.states.filter((s) => isCache(s.name)),
      };
      for (const c of program.constants) {
        const data = hostArray(c.dtype, c.data.length);
        data.set(c.data);
        this.device.write({ memory: memories[1], offset: tensors[c.tensor].offset }, data);
      }
      const bindings = new Map<Own | null, Binding>();
      if (loaded.caches.length === 0) bindings.set(null, this.#bind(loaded, null));
      this.#loaded.set(loaded, bindings);
      return loaded;
    } catch (error) {
      for (const m of memories) this.device.free(m);
      throw error;
    }
  }

  /** The binding of a program for these caches; a new one if there is none for the current arena. */
  #bindingOf(l: LoadedProgram, own: Own | null = null): Binding {
    this.#open();
    const bindings = this.#loaded.get(l),
      caches = l.caches.length > 0 ? own : null;
    if (!bindings)
      throw new UserError(
        'this program was released: its memory was given back',
        'ask the session for it again: session.prepare(batch)',
      );
    if (l.bytes.arena > this.arenaBytes()) this.#resizeArena(l.bytes.arena);
    const made = bindings.get(caches) ?? this.#bind(l, caches);
    bindings.set(caches, made);
    return made;
  }

  #bind({ program, memories: [io, constants], caches: cached }: LoadedProgram, caches: Own | null): Binding {
    // A program without an arena may have tensors of 0 bytes there.
    const slabs = { arena: this.#arena ?? io, io, constants },
      own = caches?.states ?? this.#states;
    for (const { name, type } of cached)
      checkState(name, (own.get(name) ?? this.#createState(own, name, type)).type, type);
    const stateOf = (name: string): State => (isCache(name) && own.get(name)) || this.#state(name);
    const places = program.tensors.map(({ slab, name, offset }): Place =>
      slab === 'state' ? { memory: stateOf(name).memory, offset: 0 } : { memory: slabs[slab], offset },
    );
    const bound = this.device.bind(
      program.steps.map((s, index): BoundStep => {
        // Schedules make kernels of copies; calls of libraries are for devices that have them.
        if (s.kind !== 'kernel' && s.kind !== 'collective')
          throw new VerifyError('run', `the device ${this.device.info.name} runs no ${s.kind} steps`);
        const { ints, barrier, scope } = s,
          buffers = s.buffers.map((b) => places[b]),
          unless = s.unless === null ? null : places[s.unless];
        if (s.kind === 'collective') {
          const { collective, phase, begunBy, slots } = s;
          return { collective, buffers, ints, barrier, unless, index, scope, phase, begunBy, slots };
        }
        return {
          kernel: s.kernel,
          buffers,
          ints,
          barrier,
          unless,
          bySlot: s.bySlot,
          ...(s.runsGroupwiseAfterPrevious && {
            runsGroupwiseAfterPrevious: {
              groups: s.runsGroupwiseAfterPrevious.groups,
              offsets: places[s.runsGroupwiseAfterPrevious.offsets],
            },
          }),
        };
      }),
    );
    return { bound, places };
  }

  #unbind(bindings: Map<Own | null, Binding>, caches: Own | null): void {
    const made = bindings.get(caches);
    if (!made) return;
    bindings.delete(caches);
    this.#turns.whenIdle(() => {
      made.bound.dispose();
    });
  }

  /** All loaded programs. */
  loadedPrograms(): LoadedProgram[] {
    return [...this.#loaded.keys()];
  }

  run(
    l: LoadedProgram,
    inputs: Readonly<Record<string, TypedArray>>,
    caches?: Caches,
    onInputsRead?: () => void,
  ): Promise<Record<string, HostTensor>> {
    let rows: readonly number[] = [];
    return this.#turns.take(
      () => {
        const binding = this.#writeInputs(l, inputs, caches);
        // Read now: the arrays may be refilled later.
        rows = l.program.outputs.map(({ rows }) => (rows ? inputs[rows.input][rows.at] : Infinity));
        onInputsRead?.();
        return binding;
      },
      async (binding) => {
        const start = performance.now();
        await binding.bound.run();
        this.callMs = performance.now() - start;
        const { outputs } = l.program,
          values = await this.#read(binding, outputs, rows);
        return Object.fromEntries(outputs.map(({ name }, i) => [name, values[i]]));
      },
    );
  }

  #writeInputs(l: LoadedProgram, inputs: Readonly<Record<string, TypedArray>>, caches?: Caches): Binding {
    const binding = this.#bindingOf(l, this.#caches.of(caches));
    this.#current = l;
    const { tensors } = l.program;
    for (const { name, tensor, type: declared } of l.program.inputs) {
      const data = this.#ranks ? this.#ranks.input(name, declared, inputs[name]) : inputs[name];
      this.device.write(binding.places[tensor], checkInput(name, tensors[tensor].type, data));
    }
    this.#ranks?.begin(l.program, inputs['step']?.[0] ?? 0);
    return binding;
  }

  /** Reads tensors in one batch. rows: how many rows of each exist; the others are 0 in the result. */
  async #read(
    { places }: Binding,
    tensors: readonly Pick<Port, 'tensor' | 'type'>[],
    rows: readonly number[] = [],
  ): Promise<HostTensor[]> {
    const reads = tensors.map(({ tensor, type: { dtype, shape } }, i) => {
      const all = hostArray(dtype, elements(shape)),
        exist = Math.max(0, rows[i] ?? Infinity) * elements(shape.slice(1));
      return { place: places[tensor], all, into: exist < all.length ? all.subarray(0, exist) : all };
    });
    await this.device.read(reads);
    return reads.map(({ all }, i) => hostOf(tensors[i].type, all));
  }

  /** Uses the inputs of the last run, which are still on the device. */
  diagnose(l: LoadedProgram): Promise<string | null> {
    return this.#turns.take(
      () => this.#prepareDryRun(l),
      async (binding) => {
        for (let i = 0; i < l.program.steps.length; i++) {
          const step = l.program.steps[i];
          await binding.bound.run(i, i + 1);
          const written = step.buffers
            .filter((b, j) => step.writes[j] && l.program.tensors[b].slab !== 'state')
            .map((tensor) => ({ tensor, type: l.program.tensors[tensor].type }));
          const isFinite = (await this.#read(binding, written)).every(finite);
          if (!(this.#ranks ? this.#ranks.every(isFinite) : isFinite))
            return `${step.ops.join('+')}${step.scope ? ` in ${step.scope}` : ''}`;
        }
        return null;
      },
    );
  }

  /** Nanoseconds of each step, measured in another run on the last inputs, which stores nothing. */
  profile(l: LoadedProgram): Promise<Float64Array> {
    return this.#turns.take(
      () => this.#prepareDryRun(l),
      async ({ bound }) => (await bound.profile()).ns,
    );
  }

  /** Prepares another run on the last inputs that stores nothing: `commit` is 0. */
  #prepareDryRun(l: LoadedProgram): Binding {
    const binding = this.#bindingOf(l),
      commit = l.program.inputs.find((i) => i.name === 'commit');
    if (commit) this.device.write(binding.places[commit.tensor], Int32Array.of(0));
    this.#current = l;
    return binding;
  }

  release(l: LoadedProgram): void {
    const bindings = this.#loaded.get(l);
    if (!bindings) return;
    this.#loaded.delete(l);
    for (const caches of [...bindings.keys()]) this.#unbind(bindings, caches);
    this.#turns.whenIdle(() => {
      for (const m of l.memories) this.device.free(m);
    });
  }

  idle(): Promise<void> {
    return this.#turns.idle();
  }

  get running(): boolean {
    return this.#turns.running;
  }
  inTurn<T>(work: () => T): Promise<T> {
    return this.#turns.take(work, (made) => Promise.resolve(made));
  }

  close(): Promise<void> {
    if (this.#closed) return this.#closed;
    for (const l of [...this.#loaded.keys()]) this.release(l);
    this.#caches.closeAll();
    this.removeStates(this.stateNames());
    this.#closed = new Promise((resolve, reject) => {
      this.#turns.whenIdle(() => {
        if (this.#arena) this.device.free(this.#arena);
        this.#arena = null;
        this.device.close().then(resolve, reject);
      });
    });
    return this.#closed;
  }
}

const NONE: ReadonlySet<string> = new Set();

const bytesOf = (states: Iterable<State>): number => [...states].reduce((n, s) => n + s.memory.bytes, 0);

function storesOf({ steps, tensors }: Program): ReadonlySet<string> {
  return new Set(
    steps.flatMap((s) =>
      s.buffers.filter((b, i) => s.writes[i] && tensors[b].slab === 'state').map((b) => tensors[b].name),
    ),
  );
}

function finite(t: HostTensor): boolean {
  if (!(t.data instanceof Float32Array || t.data instanceof Float64Array)) return true;
  return t.data.every((x) => Number.isFinite(x));
}
