// The states of a session. They are created all or none: parameters with the initial values that their modules
// declare, all other states with zeros.
import type { DType } from '../base/dtype.ts';
import { ownerOf } from '../optim/updates.ts';
import { byteSize, type TensorType } from '../base/shape.ts';
import type { HostTensor } from '../base/tensor.ts';
import type { Graph } from '../graph/graph.ts';
import { roleOf, type StateSpec } from '../graph/state.ts';
import { checkInput, checkState, inUse, isCache, type Executor } from '../run/executor.ts';
import type { Named } from '../trace/module.ts';
import { initialParts, type Parameter } from '../trace/parameter.ts';
import type { Precision } from './platform.ts';
import { storedDtype } from './precision.ts';

/** Parameters that exist on the device but have no initial values yet, by name. */
export type NewParameters = ReadonlyMap<string, Parameter>;

/** A state in `session.states()`. Its value is the logical one, whatever its layout in device memory. */
export interface StateView extends Pick<StateSpec, 'name' | 'role' | 'layout'> {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** The value, at once. Throws UserError on devices whose memory the host does not see; CPU devices can do it. */
  read(): HostTensor;
  /** The value that the state has when this is called, on every device. */
  readAsync(): Promise<HostTensor>;
}

interface Wanted {
  readonly name: string;
  readonly type: TensorType;
}

export class States {
  readonly #named: Named;
  readonly #executor: Executor;
  readonly #seed: () => number;
  readonly #precision: Precision;

  constructor(named: Named, executor: Executor, seed: () => number, precision: Precision = 'float32') {
    this.#named = named;
    this.#executor = executor;
    this.#seed = seed;
    this.#precision = precision;
  }

  /** The dtype in which a state is stored; null for a state of no parameter. */
  dtypeOf(name: string): DType | null {
    return storedDtype(this.#named, this.#precision, name);
  }

  /**
   * Creates the states that a graph lacks, all 0, and returns the parameters among them. If memory is too small, or a
   * state has the name of a parameter but another type (UserError), creates none. Caches are created by the first run
   * that uses them.
   */
  create(graph: Graph): NewParameters {
    const wanted = graph.inputs
      .filter(({ kind, name }) => kind === 'state' && !isCache(name))
      .map(({ name, value }) => ({ name, type: graph.types[value] }));
    for (const { name, type } of wanted) {
      // Checks parameters and their moments also if they do not exist yet.
      const p = this.#named.parameters.get(ownerOf(name) ?? name);
      if (p) checkState(name, { dtype: this.dtypeOf(name) ?? p.dtype, shape: p.shape }, type);
    }
    return this.#create(wanted);
  }

  #create(wanted: readonly Wanted[]): NewParameters {
    const known = new Set(this.#executor.stateNames()),
      made: string[] = [];
    try {
      for (const { name, type } of wanted) {
        if (known.has(name)) continue;
        this.#executor.setState(name, type, null);
        made.push(name);
      }
    } catch (error) {
      this.#executor.removeStates(made);
      throw error;
    }
    return new Map(
      made.flatMap((name) => {
        const p = this.#named.parameters.get(name);
        return p ? [[name, p]] : [];
      }),
    );
  }

  /** Writes initial values, on the device's threads where it can. If that fails, the new states are removed again. */
  async draw(fresh: NewParameters): Promise<void> {
    const drawn = [...fresh].flatMap(([name, p]) =>
      p.init.kind === 'normal' && p.dtype === 'float32' ? [{ name, std: p.init.std }] : [],
    );
    // If the device fails here, values are made on the host below; the next run reports the failure.
    const made =
      drawn.length > 0 &&
      (await this.#executor.draw(drawn, this.#seed()).then(
        () => true,
        () => false,
      ));
    const done = new Set(made ? drawn.map(({ name }) => name) : []);
    this.start(new Map([...fresh].filter(([name]) => !done.has(name))), [...fresh.keys()]);
  }

  /** The same on this thread, before it returns. all: the states to remove if that fails. */
  start(fresh: NewParameters, all: readonly string[] = [...fresh.keys()]): void {
    try {
      for (const [name, p] of fresh)
        for (const { at, data } of initialParts(p, name, this.#seed(), this.dtypeOf(name) ?? p.dtype))
          this.#executor.setPart(name, at, data);
    } catch (error) {
      this.#executor.removeStates(all);
      throw error;
    }
  }

  /**
   * All states except caches; creates missing parameters. moving: whether a step is in progress, so that values cannot
   * be read.
   */
  all(moving: () => boolean): StateView[] {
    this.start(
      this.#create(
        [...this.#named.parameters].map(([name, p]) => ({
          name,
          type: { dtype: this.dtypeOf(name) ?? p.dtype, shape: p.shape },
        })),
      ),
    );
    return this.#executor
      .stateNames()
      .filter((n) => !isCache(n))
      .map((name) => ({
        name,
        ...this.#executor.typeOf(name),
        role: this.#named.parameters.get(name)?.role ?? roleOf(name),
        layout: this.#executor.layoutOf(name),
        read: () => {
          if (moving()) throw inUse(name);
          return this.#executor.peekState(name);
        },
        readAsync: async () => {
          if (moving()) throw inUse(name);
          return this.#executor.getState(name);
        },
      }));
  }

  /** Bytes of the states whose name `pick` accepts. */
  bytes(pick: (name: string) => boolean): number {
    return this.#executor
      .stateNames()
      .filter(pick)
      .reduce((n, name) => n + byteSize(this.#executor.typeOf(name)), 0);
  }

  /**
   * Sets values, all or none. `between` is called after all memory is allocated and before any value is set: if it
   * throws, nothing is changed.
   */
  set(values: readonly { readonly name: string; readonly value: HostTensor }[], between: () => void): void {
    for (const { name, value } of values) checkInput(name, value, value.data);
    const known = new Set(this.#executor.stateNames()),
      wanted = values.map(({ name, value: { dtype, shape } }) => ({ name, type: { dtype, shape } }));
    this.#create(wanted);
    try {
      between();
    } catch (error) {
      this.#executor.removeStates(wanted.map((w) => w.name).filter((name) => !known.has(name)));
      throw error;
    }
    for (const [i, { name, type }] of wanted.entries()) this.#executor.setState(name, type, values[i].value.data);
  }
}
