// Tracing: runs a model's forward functions on Tensors and records the Graph. What a module needs beside its input it
// asks the trace of that input for: parameters, whether this is training, random keys, and where to put losses and
// statistics.
import { UserError } from '../base/errors.ts';
import { hash32 } from '../base/hash.ts';
import { elements, isDynamic, showType, type TensorType } from '../base/shape.ts';
import type { TypedArray } from '../base/dtype.ts';
import { GraphBuilder, type OpTable } from '../graph/builder.ts';
import type { Graph } from '../graph/graph.ts';
import { mul } from '../graph/ops/elementwise/mul.ts';
import type { Tensor } from '../graph/tensor.ts';
import type { Named } from './module.ts';
import { markTraced, type Parameter } from './parameter.ts';

/** Names of states that are caches begin so: they come and go with what a session is asked for, and are in no
 * checkpoint. */
export const CACHES = 'cache/';

/** A further loss that is added to the main one with `coefficient`, reported by name. */
export interface AuxiliaryLoss {
  readonly name: string;
  readonly value: Tensor;
  readonly coefficient: number;
}

/** Seed and step are uint32 []; `first`, where it is given, too: the index of the first element. */
export interface RandomSource {
  readonly key: number;
  readonly seed: Tensor;
  readonly step: Tensor;
  readonly first?: Tensor;
}

/** A number that is a mean, and over how many things: what is ignored counts 0, what is weighted its weight. */
export interface CountedMean {
  readonly mean: Tensor;
  /** float32 [] (float64 [] of a float64 mean), or a number where the graph alone decides it. */
  readonly count: Tensor | number;
}

export class Trace extends GraphBuilder {
  readonly training: boolean;
  /** Whether somebody looks at statistics that cost something. */
  observed = false;
  /** Samples of the batch, where each has an id; null: they have none. */
  samples: number | null = null;
  /** Whether the batch goes through in parts, of which this is one. */
  inParts = false;
  readonly losses: AuxiliaryLoss[] = [];
  /** What `addMean` was told, in order. */
  readonly means: CountedMean[] = [];
  readonly stats: { readonly name: string; readonly value: Tensor }[] = [];
  readonly #named: Named;
  readonly #names: ReadonlyMap<Parameter, string>;
  readonly #values = new Map<Parameter, Tensor>();
  readonly #scalars = new Map<string, Tensor>();
  readonly #keys = new Set<number>();
  #constants = 0;

  constructor(ops: OpTable, named: Named, training: boolean) {
    super(ops);
    this.training = training;
    this.#named = named;
    this.#names = new Map([...named.parameters].map(([name, p]) => [p, name]));
  }

  /** The parameter's current value. */
  parameter(p: Parameter): Tensor {
    let value = this.#values.get(p);
    if (!value) {
      const name = this.#names.get(p);
      if (name === undefined)
        throw new UserError(
          'a parameter is used that belongs to no property of the model',
          'store modules and parameters in properties, not in closures',
        );
      markTraced(p);
      value = this.input('state', name, { dtype: p.dtype, shape: p.shape });
      this.#values.set(p, value);
    }
    return value;
  }

  /** A state that is no parameter (a key-value cache), created if needed, all 0. Another type under the same name
   * is an error: put sizes that may vary into the name. */
  state(name: string, type: TensorType): Tensor {
    const found = this.inputs.find((i) => i.kind === 'state' && i.name === name),
      value = found ? this.tensor(found.value) : this.input('state', name, type);
    if (showType(value.type) === showType(type)) return value;
    throw new UserError(
      `state ${name} is ${showType(value.type)} in this trace, not ${showType(type)}`,
      'a state is its name, dtype and sizes: one of other sizes needs a name of its own',
    );
  }

  /** A number given at each run: 'step', 'seed' (uint32), 'position' (int32), hyper-parameters (float32); in parts
   * of a batch 'part', the number of this one, and 'apart', that many shares of all uint32. */
  scalar(name: string, dtype: 'uint32' | 'int32' | 'float32' | 'float64'): Tensor {
    let value = this.#scalars.get(name);
    if (!value) {
      value = this.input('input', name, { dtype, shape: [] });
      this.#scalars.set(name, value);
    }
    return value;
  }

  /** int32 [samples]: the ids of the batch's samples; null where they have none. Graphs that do not ask have no
   * such input. */
  sampleIds(): Tensor | null {
    if (this.samples === null) return null;
    const found = this.inputs.find((i) => i.kind === 'input' && i.name === 'ids');
    return found ? this.tensor(found.value) : this.input('input', 'ids', { dtype: 'int32', shape: [this.samples] });
  }

  /** Data of the graph. `data` is copied. */
  constant(type: TensorType, data: TypedArray): Tensor {
    return this.input('constant', `constant${this.#constants++}`, type, data.slice());
  }

  /** What `p`, which is not trained, holds once the step commits: made of what it held, or of what an earlier call
   * in this trace gave. */
  updateParameter(p: Parameter, next: (before: Tensor) => Tensor): void {
    if (p.trained)
      throw new UserError(
        'a trained parameter is updated by the optimizer alone',
        'new Parameter(shape, init, { trained: false })',
      );
    const state = this.parameter(p),
      at = this.updates.findIndex((u) => u.state === state.id);
    const value = next(at < 0 ? state : this.tensor(this.updates[at].value));
    if (at >= 0) this.updates.splice(at, 1);
    this.update(state, value);
  }

  pathOf(module: object): string {
    return this.#named.paths.get(module) ?? '';
  }

  /** A key for random numbers of this module: the hash of its path and of `purpose`. Another at each call in a
   * trace, so that a module that is used twice, or two modules, never share a number. */
  keyOf(module: object, purpose = ''): number {
    const name = `${this.pathOf(module)}/${purpose}`;
    let key = hash32(name);
    for (let again = 1; this.#keys.has(key); again++) key = hash32(`${name}#${again}`);
    this.#keys.add(key);
    return key;
  }

  /**
   * What random numbers for the elements of `like` are made of, for `ops.uniform` and `ops.dropout`. Where a batch goes
   * through in parts, `first` counts elements on from part to part: no two parts share a number, and where the rows of
   * `like` are those of the batch, their numbers are those that the whole batch would have given them.
   */
  random(module: object, purpose: string, like: Tensor): RandomSource {
    const seed = this.scalar('seed', 'uint32'),
      step = this.scalar('step', 'uint32');
    const source = { key: this.keyOf(module, purpose), seed, step };
    if (!this.inParts) return source;
    // How many elements there are at run time is not known here, and a bound must not matter: parts lie far apart.
    if (isDynamic(like.shape)) return { ...source, first: this.scalar('apart', 'uint32') };
    return { ...source, first: mul(this.scalar('part', 'uint32'), elements(like.shape)) };
  }

  addLoss(module: object, name: string, value: Tensor, coefficient: number): void {
    this.losses.push({ name: `${this.pathOf(module)}/${name}`, value, coefficient });
  }

  /** Says that `mean` is a mean over `count` things. Pieces of a batch, and batches of an evaluation, that lead to
   * it weigh by that. */
  addMean(mean: Tensor, count: Tensor | number): void {
    this.means.push({ mean, count });
  }

  addStat(module: object, name: string, value: Tensor): void {
    this.stats.push({ name: `${this.pathOf(module)}/${name}`, value });
  }
}

/** The trace that a tensor belongs to. */
export function traceOf(x: Tensor): Trace {
  if (!(x.builder instanceof Trace)) throw new UserError('this tensor belongs to no trace of a model');
  return x.builder;
}

/** The value of parameter `p` in the graph of `x`. */
export const use = (x: Tensor, p: Parameter): Tensor => traceOf(x).parameter(p);

/** Graphs, errors and profiles name the module as the maker of what `make` makes. */
export function within<T>(x: Tensor, module: object, make: () => T): T {
  const trace = traceOf(x),
    outer = trace.scope;
  trace.scope = trace.pathOf(module) || outer;
  try {
    return make();
  } finally {
    trace.scope = outer;
  }
}

/** Runs a module within its scope. */
export const call = <Rest extends readonly unknown[], Out>(
  module: { forward(x: Tensor, ...rest: Rest): Out },
  x: Tensor,
  ...rest: Rest
): Out => within(x, module, () => module.forward(x, ...rest));

/** Traces `build` to a Graph. */
export function trace(ops: OpTable, named: Named, training: boolean, build: (t: Trace) => void): Graph {
  const t = new Trace(ops, named, training);
  build(t);
  return t.build();
}
