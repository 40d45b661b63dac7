// Programs on a device.
import { hostArray, type DType, type TypedArray } from '../base/dtype.ts';
import { UserError } from '../base/errors.ts';
import { hash32 } from '../base/hash.ts';
import type { HostTensor } from '../base/tensor.ts';
import { byteSize, elements, sizes, type TensorType } from '../base/shape.ts';
import type { Bound, Device, Memory } from '../device/device.ts';
import type { Program } from '../plan/program.ts';
import { checkInput, checkPart, hostOf, type Executor, type Runnable } from './executor.ts';

interface State { readonly type: TensorType; readonly memory: Memory }

export interface LoadedProgram extends Runnable {
  readonly program: Program;
  readonly bound: Bound;
  /** Address of each planned tensor. */
  readonly addresses: readonly number[];
  readonly memories: readonly Memory[];
}

export class ProgramExecutor implements Executor<LoadedProgram> {
  readonly device: Device;
  /** How long the device took for the last run, from call to return. */
  callMs = 0;
  readonly #states = new Map<string, State>();
  /** One arena serves all programs: they run one after the other. */
  #arena: Memory | null = null;
  #loaded = new Set<LoadedProgram>();

  constructor(device: Device) { this.device = device; }

  get description(): string { return this.device.info.description; }
  get threads(): number { return this.device.info.threads; }

  setState(name: string, type: TensorType, value: TypedArray | null): void {
    let state = this.#states.get(name);
    if (!state) {
      state = { type, memory: this.device.alloc(byteSize(type)) };
      this.#states.set(name, state);
      if (value === null) return; // fresh memory is 0
    }
    this.device.write(state.memory.address, checkInput(name, state.type, value ?? hostArray(state.type.dtype, elements(state.type.shape))));
  }

  setPart(name: string, at: number, data: TypedArray): void {
    const { type, memory } = this.#state(name);
    this.device.write(memory.address + at * data.BYTES_PER_ELEMENT, checkPart(name, type, at, data));
  }

  async draw(states: readonly { readonly name: string; readonly std: number }[], seed: number): Promise<void> {
    if (states.length === 0) return;
    await this.device.draw(states.map(({ name, std }) => {
      const { type, memory } = this.#state(name);
      return { address: memory.address, count: elements(type.shape), std, seed, name: hash32(name) };
    }));
  }

  getState(name: string): HostTensor {
    const state = this.#state(name), data = hostArray(state.type.dtype, elements(state.type.shape));
    this.device.read(state.memory.address, data);
    return hostOf(state.type, data);
  }

  getPart(name: string, at: number, count: number): TypedArray {
    const { type, memory } = this.#state(name), data = hostArray(type.dtype, count);
    this.device.read(memory.address + at * data.BYTES_PER_ELEMENT, checkPart(name, type, at, data));
    return data;
  }

  #state(name: string): State {
    const found = this.#states.get(name);
    if (!found) throw new UserError(`no state named ${name}`);
    return found;
  }

  typeOf(name: string): { readonly dtype: DType; readonly shape: readonly number[] } {
    const { dtype, shape } = this.#state(name).type;
    return { dtype, shape: sizes(shape) };
  }

  stateNames(): string[] { return [...this.#states.keys()]; }

  stateBytes(without?: string): number { return [...this.#states].reduce((n, [name, s]) => n + (without !== undefined && name.startsWith(without) ? 0 : s.memory.bytes), 0); }

  arenaBytes(): number { return this.#arena?.bytes ?? 0; }

  /** Takes the memory that a program's intermediate values will need. */
  reserve({ slabs: { arena } }: Program): void { if (arena > this.arenaBytes()) this.#resizeArena(arena); }

  /** Takes back what was given back since it was loaded. */
  #regrow({ bytes: { arena } }: LoadedProgram): void { if (arena > this.arenaBytes()) this.#resizeArena(arena); }

  trim(bytes: number): void { if (bytes < this.arenaBytes()) this.#resizeArena(bytes); }

  /** Its kernels must be compiled already. */
  load(program: Program): LoadedProgram {
    this.reserve(program);
    const io = this.device.alloc(program.slabs.io), constants = this.device.alloc(program.slabs.constants);
    const loaded = this.#bind(program, [io, constants]);
    for (const c of program.constants) {
      const data = hostArray(c.dtype, c.data.length);
      data.set(c.data);
      this.device.write(loaded.addresses[c.tensor], data);
    }
    this.#loaded.add(loaded);
    return loaded;
  }

  #bind(program: Program, memories: readonly Memory[]): LoadedProgram {
    const base = { arena: this.#arena?.address ?? 0, io: memories[0].address, constants: memories[1].address };
    const addresses = program.tensors.map((t) => (t.slab === 'state' ? this.#state(t.name).memory.address : base[t.slab] + t.offset));
    const bound = this.device.bind(program.steps.map((s) => ({ kernel: s.kernel, buffers: s.buffers.map((b) => addresses[b]), ints: s.ints,
      barrier: s.barrier, unless: s.unless === null ? null : addresses[s.unless],
      ...(s.follows && { follows: { groups: s.follows.groups, offsets: addresses[s.follows.offsets] } }) })));
    return { program, bound, addresses, memories, bytes: program.slabs };
  }

  #resizeArena(bytes: number): void {
    const old = this.#arena;
    // Nothing in it outlives a run, so it goes first: a device whose memory is small need not hold both.
    if (old) this.device.free(old);
    try {
      this.#arena = this.device.alloc(bytes);
    } catch (error) {
      if (old) this.#arena = this.device.alloc(old.bytes);
      throw error;
    } finally {
      // Programs that point into the old arena are bound anew; their io and constants stay.
      for (const l of this.#loaded) {
        this.device.release(l.bound);
        Object.assign(l, this.#bind(l.program, l.memories));
      }
    }
  }

  /** The programs that are loaded now. */
  loadedPrograms(): LoadedProgram[] { return [...this.#loaded]; }

  async run(l: LoadedProgram, inputs: Readonly<Record<string, TypedArray>>): Promise<Record<string, HostTensor>> {
    this.#regrow(l);
    this.#feed(l, inputs);
    const start = performance.now();
    await this.device.run(l.bound);
    this.callMs = performance.now() - start;
    return Object.fromEntries(l.program.outputs.map((o) => [o.name, this.#read(l, o.tensor, o.type)]));
  }

  #feed(l: LoadedProgram, inputs: Readonly<Record<string, TypedArray>>): void {
    for (const { name, tensor } of l.program.inputs) {
      this.device.write(l.addresses[tensor], checkInput(name, l.program.tensors[tensor].type, inputs[name]));
    }
  }

  #read(l: LoadedProgram, tensor: number, type: TensorType = l.program.tensors[tensor].type): HostTensor {
    const data = hostArray(type.dtype, elements(type.shape));
    this.device.read(l.addresses[tensor], data);
    return hostOf(type, data);
  }

  async diagnose(l: LoadedProgram, inputs: Readonly<Record<string, TypedArray>>): Promise<string | null> {
    this.#regrow(l);
    this.#feed(l, { ...inputs, commit: Int32Array.of(0) });
    for (let i = 0; i < l.program.steps.length; i++) {
      const step = l.program.steps[i];
      await this.device.run(l.bound, i, i + 1);
      const bad = step.buffers.some((b, j) => step.writes[j] && l.program.tensors[b].slab !== 'state' && !finite(this.#read(l, b)));
      if (bad) return `${step.ops.join('+')}${step.scope ? ` in ${step.scope}` : ''}`;
    }
    return null;
  }

  /** Nanoseconds of each step, in one more run on the inputs of the last, storing nothing. */
  async profile(l: LoadedProgram): Promise<Float64Array> {
    const commit = l.program.inputs.find((i) => i.name === 'commit');
    this.#regrow(l);
    if (commit) this.device.write(l.addresses[commit.tensor], Int32Array.of(0));
    return (await this.device.profile(l.bound)).ns;
  }

  release(l: LoadedProgram): void {
    if (!this.#loaded.delete(l)) return;
    this.device.release(l.bound);
    l.memories.forEach((m) => this.device.free(m));
  }

  close(): void {
    for (const l of [...this.#loaded]) this.release(l);
    for (const s of this.#states.values()) this.device.free(s.memory);
    this.#states.clear();
    if (this.#arena) this.device.free(this.#arena);
    this.device.close();
  }
}

function finite(t: HostTensor): boolean {
  if (!(t.data instanceof Float32Array || t.data instanceof Float64Array)) return true;
  return t.data.every((x) => Number.isFinite(x));
}
