// The states of a session: created all or none, parameters with the values that their modules say, everything else at
// 0.
import type { DType } from '../base/dtype.ts';
import { ownerOf } from '../optim/updates.ts';
import { byteSize, type TensorType } from '../base/shape.ts';
import type { HostTensor } from '../base/tensor.ts';
import type { Graph } from '../graph/graph.ts';
import { checkInput, checkState, inUse, isCache, type Executor } from '../run/executor.ts';
import type { Named } from '../trace/module.ts';
import { initialParts, type Parameter } from '../trace/parameter.ts';

/** Parameters that were created and have no values yet, by name. */
export type Fresh = ReadonlyMap<string, Parameter>;

/** A state as a session shows it. */
export interface StateView {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  read(): HostTensor;
}

interface Wanted {
  readonly name: string;
  readonly type: TensorType;
}

export class States {
  readonly #named: Named;
  readonly #executor: Executor;
  readonly #seed: () => number;

  constructor(named: Named, executor: Executor, seed: () => number) {
    this.#named = named;
    this.#executor = executor;
    this.#seed = seed;
  }

  /** Creates what a graph lacks, all 0; none where memory is short, or where one would have the name of a parameter
   * and another type (UserError). Caches are made where they are used first. */
  create(graph: Graph): Fresh {
    const wanted = graph.inputs
      .filter(({ kind, name }) => kind === 'state' && !isCache(name))
      .map(({ name, value }) => ({ name, type: graph.types[value] }));
    for (const { name, type } of wanted) {
      // A parameter, and what an optimiser keeps of it, has its type also where it is not there yet.
      const p = this.#named.parameters.get(ownerOf(name) ?? name);
      if (p) checkState(name, { dtype: p.dtype, shape: p.shape }, type);
    }
    return this.#create(wanted);
  }

  #create(wanted: readonly Wanted[]): Fresh {
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

  /**
   * Starting values, made by the device off this thread as far as it can. Where they cannot be made, the states are not
   * there.
   */
  async draw(fresh: Fresh): Promise<void> {
    const drawn = [...fresh].flatMap(([name, p]) =>
      p.init.kind === 'normal' && p.dtype === 'float32' ? [{ name, std: p.init.std }] : [],
    );
    // A device that fails says so when it runs.
    const made =
      drawn.length > 0 &&
      (await this.#executor.draw(drawn, this.#seed()).then(
        () => true,
        () => false,
      ));
    const done = new Set(made ? drawn.map(({ name }) => name) : []);
    this.start(new Map([...fresh].filter(([name]) => !done.has(name))), [...fresh.keys()]);
  }

  /** The same before it returns. all: states that are not there where values cannot be made. */
  start(fresh: Fresh, all: readonly string[] = [...fresh.keys()]): void {
    try {
      for (const [name, p] of fresh)
        for (const { at, data } of initialParts(p, name, this.#seed())) this.#executor.setPart(name, at, data);
    } catch (error) {
      this.#executor.removeStates(all);
      throw error;
    }
  }

  /**
   * All but caches; creates the parameters that are not there yet. `moving`: values are between two steps, and cannot
   * be read.
   */
  all(moving: () => boolean): StateView[] {
    this.start(
      this.#create(
        [...this.#named.parameters].map(([name, p]) => ({ name, type: { dtype: p.dtype, shape: p.shape } })),
      ),
    );
    return this.#executor
      .stateNames()
      .filter((n) => !isCache(n))
      .map((name) => ({
        name,
        ...this.#executor.typeOf(name),
        read: () => {
          if (moving()) throw inUse(name);
          return this.#executor.getState(name);
        },
      }));
  }

  /** Bytes of those of which `pick` says so. */
  bytes(pick: (name: string) => boolean): number {
    return this.#executor
      .stateNames()
      .filter(pick)
      .reduce((n, name) => n + byteSize(this.#executor.typeOf(name)), 0);
  }

  /**
   * Sets values, all or none. `between` is called when all memory is taken and nothing is set: where it throws, nothing
   * is changed.
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
