// Tracing: runs a model's forward functions on Tensors and records the Graph. A module asks the trace of its input for
// everything else that it needs: parameters, whether this is training, random keys, and where to report losses and
// statistics.
import { UserError } from '../base/errors.ts';
import { hash32 } from '../base/hash.ts';
import { divided, elements, isDynamic, sameDim, showType, type Segmented, type TensorType } from '../base/shape.ts';
import type { TypedArray } from '../base/dtype.ts';
import { GraphBuilder, type OpTable } from '../graph/builder.ts';
import type { Graph } from '../graph/graph.ts';
import { mul } from '../graph/ops/elementwise/mul.ts';
import type { Tensor } from '../graph/tensor.ts';
import type { Named } from './module.ts';
import { isOfExperts, markTraced, type Parameter } from './parameter.ts';

/** A further loss, added to the main one times `coefficient`, and reported under its name. */
export interface AuxiliaryLoss {
  readonly name: string;
  readonly value: Tensor;
  readonly coefficient: number;
}

/** Seed and step are uint32 []. `first`, if it is given: the index of the first element, uint32 []. */
export interface RandomSource {
  readonly key: number;
  readonly seed: Tensor;
  readonly step: Tensor;
  readonly first?: Tensor;
}

/** A mean, and the number of things that it is over: ignored ones count 0, weighted ones their weight. */
export interface CountedMean {
  readonly mean: Tensor;
  /** float32 [] (float64 [] for a float64 mean), or a number if it is known from the graph. */
  readonly count: Tensor | number;
}

export class Trace extends GraphBuilder {
  readonly training: boolean;
  /** Whether statistics that cost time are wanted. */
  observed = false;
  /** The number of samples in the batch, if each has an id; null if they have none. */
  samples: number | null = null;
  /** Where the batch is rows that are segmented by sample: their dimension. */
  rows: Segmented | null = null;
  /** Whether the batch is computed in parts, of which this is one. */
  inParts = false;
  readonly losses: AuxiliaryLoss[] = [];
  /** All calls of `addMean`, in order. */
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

  /** The present value of a parameter. */
  parameter(p: Parameter): Tensor {
    let value = this.#values.get(p);
    if (!value) {
      const name = this.#names.get(p);
      if (name === undefined)
        throw new UserError(
          'a parameter is used that is not stored in a property of the model',
          'store modules and parameters in properties, not in closures',
        );
      markTraced(p);
      const type = { dtype: p.dtype, shape: p.shape };
      value = this.newState(name, isOfExperts(p) ? divided(type, 'expert') : type, p.role);
      this.#values.set(p, value);
    }
    return value;
  }

  /**
   * A state that is no parameter (a key-value cache). It is created if needed, with all elements 0. Another type under
   * the same name is an error: put sizes that may vary into the name.
   */
  state(name: string, type: TensorType): Tensor {
    const found = this.inputs.find((i) => i.kind === 'state' && i.name === name),
      value = found ? this.tensor(found.value) : this.newState(name, type);
    if (showType(value.type) === showType(type)) return value;
    throw new UserError(
      `state ${name} is ${showType(value.type)} in this trace, not ${showType(type)}`,
      'a state of another dtype or size needs another name',
    );
  }

  /**
   * A number that is given at each run: 'step', 'seed' (uint32), 'position' (int32), hyper-parameters (float32). If the
   * batch is computed in parts: 'part', the number of this part; 'apart', that number times an equal share of the range
   * of uint32; 'first_row', the number of rows of the parts before it.
   */
  scalar(name: string, dtype: 'uint32' | 'int32' | 'float32' | 'float64'): Tensor {
    let value = this.#scalars.get(name);
    if (!value) {
      value = this.input('input', name, { dtype, shape: [] });
      this.#scalars.set(name, value);
    }
    return value;
  }

  /**
   * int32 [samples]: the ids of the batch's samples; null if they have none. Only graphs that ask for it have this
   * input.
   */
  sampleIds(): Tensor | null {
    if (this.samples === null) return null;
    const found = this.inputs.find((i) => i.kind === 'input' && i.name === 'ids');
    return found
      ? this.tensor(found.value)
      : this.input('input', 'ids', divided({ dtype: 'int32', shape: [this.samples] }, 'batch'));
  }

  /** Data of the graph. `data` is copied. */
  constant(type: TensorType, data: TypedArray): Tensor {
    return this.input('constant', `constant${this.#constants++}`, type, data.slice());
  }

  /**
   * Sets the value that `p`, which must not be trained, has after the step: computed from its value before, or from the
   * result of an earlier call in this trace.
   */
  updateParameter(p: Parameter, next: (before: Tensor) => Tensor): void {
    if (p.trained)
      throw new UserError(
        'only the optimizer updates a trained parameter',
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

  /**
   * A key for random numbers of a module: the hash of its path and of `purpose`. Every call in a trace gives another
   * key, so that two modules, or two uses of one module, never share a number.
   */
  keyOf(module: object, purpose = ''): number {
    const name = `${this.pathOf(module)}/${purpose}`;
    let key = hash32(name);
    for (let again = 1; this.#keys.has(key); again++) key = hash32(`${name}#${again}`);
    this.#keys.add(key);
    return key;
  }

  /**
   * The inputs of `ops.uniform` and `ops.dropout` for the elements of `like`. If the batch is computed in parts,
   * `first` counts elements from part to part, so that no two parts share a number; if the rows of `like` are those of
   * the batch, the numbers are those of the whole batch.
   */
  random(module: object, purpose: string, like: Tensor): RandomSource {
    const seed = this.scalar('seed', 'uint32'),
      step = this.scalar('step', 'uint32');
    const source = { key: this.keyOf(module, purpose), seed, step };
    if (!this.inParts) return source;
    const [first] = like.shape;
    if (this.rows && first !== undefined && sameDim(first, this.rows))
      return { ...source, first: mul(this.scalar('first_row', 'uint32'), elements(like.shape.slice(1))) };
    // The number of elements at run time is unknown here, and a bound must not matter: the ranges of parts are far
    // apart.
    if (isDynamic(like.shape)) return { ...source, first: this.scalar('apart', 'uint32') };
    return { ...source, first: mul(this.scalar('part', 'uint32'), elements(like.shape)) };
  }

  addLoss(module: object, name: string, value: Tensor, coefficient: number): void {
    this.losses.push({ name: `${this.pathOf(module)}/${name}`, value, coefficient });
  }

  /**
   * Says that `mean` is a mean over `count` things. Parts of a batch, and batches of an evaluation, are weighted by it.
   */
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

/** Runs `make`; graphs, errors and profiles name `module` for the nodes that it makes. */
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

/** Runs a module; nodes get its path as their scope. */
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
