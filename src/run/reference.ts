// The reference: interprets a graph in float64 with the references of ops. It is slow and simple; devices
// are compared with it, and finite differences are computed with it. Floats enter and leave as float64, so nothing is
// rounded.
import { convert, numbersOf } from '../base/convert.ts';
import { hostArray, isFloat, type DType, type TypedArray } from '../base/dtype.ts';
import { isHalf } from '../base/half.ts';
import type { Lazy } from '../base/lazy.ts';
import { Stream } from '../base/random.ts';
import { boundOf, elements, showType, sizes, type TensorType } from '../base/shape.ts';
import type { HostTensor } from '../base/tensor.ts';
import type { OpTable } from '../graph/builder.ts';
import type { Graph, GraphInput, Node, ValueId } from '../graph/graph.ts';
import { ops as allOps } from '../graph/ops/index.ts';
import type { RefCall } from '../graph/op.ts';
import { referenceOf } from '../graph/references/index.ts';
import type { Layout } from '../graph/state.ts';
import { OpenCaches, type OwnCaches } from './caches.ts';
import {
  checkInput,
  checkPart,
  checkState,
  hostOf,
  isCache,
  isClosed,
  noState,
  type Caches,
  type Drawn,
  type Executor,
  type Runnable,
  type StatePart,
} from './executor.ts';

export interface ReferenceRunnable extends Runnable {
  readonly graph: Graph;
}

/** This module, which few programs need (session/extras.ts). */
export type Reference = Lazy<{
  readonly evaluate: typeof evaluate;
  readonly ReferenceExecutor: typeof ReferenceExecutor;
}>;

interface State {
  readonly type: TensorType;
  data: Float64Array;
}

/** The values of a graph by id; integers and bools are stored as float64, too. */
export type Values = readonly Float64Array[];

export class ReferenceExecutor implements Executor<ReferenceRunnable> {
  readonly description = 'reference, float64, one operation at a time';
  readonly threads = 1;
  readonly wide = true;
  readonly #ops: OpTable;
  readonly #states = new Map<string, State>();
  readonly #caches = new OpenCaches<State>(bytesOf, () => undefined);
  #closed = false;

  constructor(ops: OpTable = allOps) {
    this.#ops = ops;
  }

  setState(name: string, type: TensorType, given: TypedArray | null): void {
    const found = this.#states.get(name),
      value = given ?? hostArray(type.dtype, elements(type.shape));
    this.#open();
    if (found) check(name, found.type, type);
    this.#states.set(name, { type: found?.type ?? type, data: toReference(name, type, value) });
  }

  removeStates(names: readonly string[]): void {
    for (const name of names) this.#states.delete(name);
  }

  setPart(name: string, at: number, data: TypedArray): void {
    const { type, data: all } = this.#state(name),
      wide = data instanceof Float64Array && isFloat(type.dtype);
    all.set(checkPart(name, wide ? { ...type, dtype: 'float64' } : type, at, data), at);
  }

  draw(states: readonly Drawn[], seed: number): Promise<void> {
    for (const { name, std } of states) {
      const { type, data } = this.#state(name),
        drawn = new Stream(seed, name).normals(0, std, new Float32Array(data.length));
      data.set(numbersOf(convert(hostOf({ ...type, dtype: 'float32' }, drawn), type.dtype)));
    }
    return Promise.resolve();
  }

  getParts(parts: readonly StatePart[]): Promise<TypedArray[]> {
    return Promise.resolve(
      parts.map(({ name, at, count }) => {
        const { type, data } = this.#state(name),
          part = hostArray(isFloat(type.dtype) ? 'float64' : type.dtype, count);
        checkPart(name, isFloat(type.dtype) ? { ...type, dtype: 'float64' } : type, at, part);
        part.set(data.subarray(at, at + count));
        return part;
      }),
    );
  }

  // async, so that a state that does not exist rejects
  async getState(name: string): Promise<HostTensor> {
    return Promise.resolve(this.peekState(name));
  }

  /** Float states are returned as float64. */
  peekState(name: string): HostTensor {
    const { type, data } = this.#state(name);
    return fromReference(type, data);
  }

  #state(name: string): State {
    this.#open();
    const found = this.#states.get(name);
    if (!found) throw noState(name);
    return found;
  }

  #open(): void {
    if (this.#closed) throw isClosed('the executor');
  }

  layoutOf(name: string): Layout {
    this.#state(name);
    return 'rows';
  }

  /** Float states are reported as float64, the type in which they are read. */
  typeOf(name: string): { readonly dtype: DType; readonly shape: readonly number[] } {
    const { dtype, shape } = this.#state(name).type;
    return { dtype: isFloat(dtype) ? 'float64' : dtype, shape: sizes(shape) };
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

  freshCaches(): number {
    return 0;
  } // caches are in the host's memory

  load(graph: Graph): ReferenceRunnable {
    return {
      graph,
      bytes: { arena: 0, io: 0, constants: 0 },
      stores: new Set(graph.updates.map((u) => nameOf(graph, u.state))),
    };
  }

  async run(
    { graph }: ReferenceRunnable,
    inputs: Readonly<Record<string, TypedArray>>,
    caches?: Caches,
  ): Promise<Record<string, HostTensor>> {
    const own = this.#caches.of(caches),
      values = this.#evaluate(graph, inputs, own);
    // Copies all new values before the first is stored, because updates may read states.
    const fresh = graph.updates
      .filter((u) => u.unless === null || values[u.unless][0] === 0)
      .map((u) => ({
        state: this.#stateOf(nameOf(graph, u.state), graph.types[u.state], own),
        data: values[u.value].slice(),
      }));
    for (const { state, data } of fresh) state.data = data;
    return Object.fromEntries(graph.outputs.map((o) => [o.name, fromReference(graph.types[o.value], values[o.value])]));
  }

  /** The state of that name. Creates a cache that does not exist yet. */
  #stateOf(name: string, type: TensorType, own: OwnCaches<State> | null): State {
    const states = isCache(name) ? (own?.states ?? this.#states) : this.#states;
    if (isCache(name) && !states.has(name)) states.set(name, { type, data: new Float64Array(elements(type.shape)) });
    const found = states.get(name) ?? this.#state(name);
    check(name, found.type, type);
    return found;
  }

  diagnose({ graph }: ReferenceRunnable, inputs: Readonly<Record<string, TypedArray>>): Promise<string | null> {
    let bad: string | null = null;
    this.#evaluate(graph, { ...inputs, commit: Int32Array.of(0) }, null, (node, values) => {
      const leaks = node.outputs.some(
        (v) => !values[v].subarray(0, liveElements(graph.types[v], values)).every(Number.isFinite),
      );
      if (leaks) bad ??= `${node.op}${node.scope ? ` in ${node.scope}` : ''}`;
      return bad === null;
    });
    return Promise.resolve(bad);
  }

  #evaluate(
    graph: Graph,
    inputs: Readonly<Record<string, TypedArray>>,
    own: OwnCaches<State> | null,
    watch?: Watch,
  ): Values {
    this.#open();
    return evaluate(
      graph,
      this.#ops,
      (input) => {
        const type = graph.types[input.value];
        if (input.kind === 'state') return this.#stateOf(input.name, type, own).data;
        return toReference(input.name, type, input.kind === 'constant' ? input.data : inputs[input.name]);
      },
      watch,
    );
  }

  arenaBytes(): number {
    return 0;
  }
  trim(): void {
    /* nothing is held */
  }
  release(): void {
    /* nothing is held */
  }

  readonly running = false; // a run blocks this thread
  async inTurn<T>(work: () => T): Promise<T> {
    return Promise.resolve(work());
  }
  idle(): Promise<void> {
    return Promise.resolve();
  }

  close(): Promise<void> {
    this.#states.clear();
    this.#caches.closeAll();
    this.#closed = true;
    return Promise.resolve();
  }
}

const bytesOf = (states: Iterable<State>): number => [...states].reduce((n, s) => n + s.data.byteLength, 0);

/** Checks types, treating all float dtypes as equal, because all floats are float64 here. */
const check = (name: string, has: TensorType, wanted: TensorType): void => {
  checkState(name, has, wanted, has.dtype === wanted.dtype || (isFloat(has.dtype) && isFloat(wanted.dtype)));
};

/** Called after each node; returning false stops the evaluation. */
type Watch = (node: Node, values: Values) => boolean;

/** Evaluates a graph: all its values. feed: gives the value of an input. */
export function evaluate(graph: Graph, ops: OpTable, feed: Feed, watch?: Watch): Values {
  const [values] = evaluateRanks(graph, ops, [feed], watch && ((node, [own]) => watch(node, own)));
  return values;
}

/** Gives the value of an input. */
type Feed = (input: GraphInput) => Float64Array;

/** Evaluates a graph on several ranks, node by node: all values of each rank. feeds: one for each rank. */
export function evaluateRanks(
  graph: Graph,
  ops: OpTable,
  feeds: readonly Feed[],
  watch?: (node: Node, ranks: readonly Values[]) => boolean,
): Values[] {
  const ranks = feeds.map((feed) => {
    const values = new Array<Float64Array>(graph.types.length);
    for (const input of graph.inputs) values[input.value] = feed(input);
    return values;
  });
  const callOf = (node: Node, values: Values): RefCall => ({
    rows: (type) => rowsOf(type, values),
    offsets(type) {
      const d = type.shape[0];
      if (typeof d !== 'object' || d.kind !== 'segmented') throw new Error(`${showType(type)} has no segments`);
      return values[d.offsets].map((n) => Math.max(0, Math.min(d.bound, n)));
    },
    attrs: node.attrs,
    inputs: node.inputs.map((v) => values[v]),
    inTypes: node.inputs.map((v) => graph.types[v]),
    outTypes: node.outputs.map((v) => graph.types[v]),
  });
  for (const node of graph.nodes) {
    const op = ops.get(node.op);
    if (!op) throw new Error(`no op named ${node.op}`);
    const calls = ranks.map((values) => callOf(node, values)),
      made = op.referenceOfRanks?.(calls) ?? calls.map(referenceOf(op));
    ranks.forEach((values, r) => {
      node.outputs.forEach((v, i) => {
        if (made[r][i].length !== elements(graph.types[v].shape))
          throw new Error(`${node.op} made ${made[r][i].length} elements for ${showType(graph.types[v])}`);
        values[v] = made[r][i];
      });
    });
    if (watch && !watch(node, ranks)) break;
  }
  return ranks;
}

/** The number of valid rows of a tensor: its first size, or its count in this run, limited to its bound. */
export function rowsOf({ shape: [d] }: TensorType, values: Values): number {
  if (d === undefined) return 1;
  if (typeof d === 'number') return d;
  const count = d.kind === 'bounded' ? values[d.count][0] : values[d.offsets][d.segments];
  return Math.max(0, Math.min(d.bound, count));
}

/** The number of elements in the valid rows. */
export const liveElements = (type: TensorType, values: Values): number =>
  type.shape.length === 0 ? 1 : rowsOf(type, values) * type.shape.slice(1).reduce<number>((n, d) => n * boundOf(d), 1);

const nameOf = (graph: Graph, state: ValueId): string => graph.inputs.find((i) => i.value === state)?.name ?? '';

/** Converts an input to float64. Float64 data is accepted for any float dtype; other data must match the dtype. */
function toReference(name: string, type: TensorType, data: TypedArray | undefined): Float64Array {
  const wide = data instanceof Float64Array && isFloat(type.dtype);
  const checked = checkInput(name, wide ? { ...type, dtype: 'float64' } : type, data);
  const values = isHalf(type.dtype) && !wide ? numbersOf({ dtype: type.dtype, data: checked }) : checked,
    size = elements(type.shape);
  if (values.length === size) return Float64Array.from(values);
  const all = new Float64Array(size).fill(NaN);
  all.set(values);
  return all;
}

function fromReference(type: TensorType, data: Float64Array): HostTensor {
  if (isFloat(type.dtype)) return hostOf({ ...type, dtype: 'float64' }, data.slice());
  const host = hostArray(type.dtype, data.length);
  host.set(data);
  return hostOf(type, host);
}
