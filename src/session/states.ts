// The states of a session. They are created all or none: parameters with the initial values that their modules
// declare, all other states with zeros.
import type { DType } from '../base/dtype.ts';
import { ownerOf } from '../optim/updates.ts';
import type { Run } from '../base/runs.ts';
import { byteSize, type TensorType } from '../base/shape.ts';
import type { HostTensor } from '../base/tensor.ts';
import type { Graph } from '../graph/graph.ts';
import { roleOf, type StateSpec } from '../graph/state.ts';
import { checkInput, checkState, inUse, isCache, type Executor } from '../run/executor.ts';
import type { Named } from '../trace/module.ts';
import type { Placement } from '../run/placement.ts';
import { initialParts, isOfExperts, type Parameter } from '../trace/parameter.ts';
import type { Precision } from './platform.ts';
import { storedDtype } from './precision.ts';

/** Parameters that exist on the device but have no initial values yet, by name. */
export type NewParameters = ReadonlyMap<string, Parameter>;

/**
 * A state in `session.states()`. Its value is the logical one, whatever its layout in device memory. Over ranks it is
 * that of all ranks together: every rank must read the states that belong to experts, in the same order.
 */
export interface StateView extends Pick<StateSpec, 'name' | 'role' | 'layout'> {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** The value, at once. Throws UserError on devices whose memory the host does not see; CPU devices can do it. */
  read(): HostTensor;
  /** The value that the state has when this is called; of experts over ranks, once earlier runs have ended. */
  readAsync(): Promise<HostTensor>;
}

interface Wanted {
  readonly name: string;
  readonly type: TensorType;
}

/** A value to set. part: its data are this rank's part only, of a state whose experts ranks divide. */
export interface Value {
  readonly name: string;
  readonly value: HostTensor;
  readonly part?: boolean;
}

/** A state whose experts ranks divide: the shape of all of it, and of this rank's part. */
interface Divided {
  readonly placement: Placement;
  readonly shape: readonly number[];
  readonly part: readonly number[];
}

export class States {
  readonly #named: Named;
  readonly #executor: Executor;
  readonly #seed: () => number;
  readonly #precision: Precision;
  readonly #placement: Placement | null;

  constructor(
    named: Named,
    executor: Executor,
    seed: () => number,
    precision: Precision = 'float32',
    placement: Placement | null = null,
  ) {
    this.#named = named;
    this.#placement = placement;
    this.#executor = executor;
    this.#seed = seed;
    this.#precision = precision;
  }

  /** The dtype in which a state is stored; null for a state of no parameter. */
  dtypeOf(name: string): DType | null {
    return storedDtype(this.#named, this.#precision, name);
  }

  /** null: this rank has all of the state. */
  #divided(name: string): Divided | null {
    const p = this.#named.parameters.get(ownerOf(name) ?? name),
      placement = this.#placement,
      part = placement && p && isOfExperts(p) ? placement.part(p.shape) : null;
    return placement && p && part ? { placement, shape: p.shape, part } : null;
  }

  /** Which elements of a state this rank has; undefined: all of them. */
  runsOf(name: string): readonly Run[] | undefined {
    const divided = this.#divided(name);
    return divided?.placement.runs(divided.shape);
  }

  #typeOf(name: string, p: Parameter): TensorType {
    return { dtype: this.dtypeOf(name) ?? p.dtype, shape: this.#divided(name)?.part ?? p.shape };
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
      if (p) checkState(name, this.#typeOf(name, p), type);
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
    const drawn = [...fresh].flatMap(([name, p]) => {
      const runs = this.runsOf(name),
        // The device makes pairs of numbers.
        inPairs = runs?.every(({ from }) => from % 2 === 0) ?? true;
      return p.init.kind === 'normal' && p.dtype === 'float32' && inPairs ? [{ name, std: p.init.std, runs }] : [];
    });
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
        for (const { at, data } of initialParts(
          p,
          name,
          this.#seed(),
          this.dtypeOf(name) ?? p.dtype,
          this.runsOf(name),
        ))
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
    this.start(this.#create([...this.#named.parameters].map(([name, p]) => ({ name, type: this.#typeOf(name, p) }))));
    return this.#executor
      .stateNames()
      .filter((n) => !isCache(n))
      .map((name) => {
        const divided = this.#divided(name),
          all = { ...this.#executor.typeOf(name), ...(divided && { shape: divided.shape }) };
        const joined = ({ placement, shape }: Divided): HostTensor => ({
          ...all,
          data: placement.whole(shape, all.dtype, this.#executor.peekState(name).data),
        });
        return {
          name,
          ...all,
          role: this.#named.parameters.get(name)?.role ?? roleOf(name),
          layout: this.#executor.layoutOf(name),
          read: () => {
            // Ranks exchange nothing while a run exchanges something.
            if (moving() || (divided && this.#executor.running)) throw inUse(name);
            return divided ? joined(divided) : this.#executor.peekState(name);
          },
          readAsync: async () => {
            if (moving()) throw inUse(name);
            return divided ? this.#executor.inTurn(() => joined(divided)) : this.#executor.getState(name);
          },
        };
      });
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
  set(values: readonly Value[], between: () => void): void {
    for (const { name, value, part } of values) if (!part) checkInput(name, value, value.data);
    const known = new Set(this.#executor.stateNames()),
      wanted = values.map(({ name, value: { dtype, shape } }) => ({
        name,
        type: { dtype, shape: this.#divided(name)?.part ?? shape },
      }));
    this.#create(wanted);
    try {
      between();
    } catch (error) {
      this.#executor.removeStates(wanted.map((w) => w.name).filter((name) => !known.has(name)));
      throw error;
    }
    for (const [i, { name, type }] of wanted.entries()) {
      const { value, part } = values[i],
        divided = part ? null : this.#divided(name);
      this.#executor.setState(name, type, divided ? divided.placement.cut(value.shape, value.data) : value.data);
    }
  }
}
