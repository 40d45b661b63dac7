// The forms in which a rank has a value of the global graph: the whole, or its share of the samples or experts. Forms
// are made from each other where a node needs one.
import { boundOf, divided, type Axis, type TensorType } from '../../base/shape.ts';
import type { GraphBuilder } from '../../graph/builder.ts';
import type { Graph, GraphInput, ValueId } from '../../graph/graph.ts';
import { permute } from '../../graph/ops/moe/permute.ts';
import { gatherRanks } from '../../graph/ops/ranks/gatherRanks.ts';
import { ownPart } from '../../graph/ops/ranks/ownPart.ts';
import { gather } from '../../graph/ops/shape/gather.ts';
import { reshape } from '../../graph/ops/shape/reshape.ts';
import { transpose } from '../../graph/ops/shape/transpose.ts';
import type { Tensor } from '../../graph/tensor.ts';
import type { Samples } from '../samples.ts';

/** The name of the input with the expert in each slot of a bank. */
export const slotsName = (experts: number): string => `slots/${experts}`;
/** The name of the input with the number of the rank. */
export const RANK = 'rank';

export class Forms {
  readonly #graph: Graph;
  readonly #builder: GraphBuilder;
  readonly #ranks: number;
  readonly #whole = new Map<ValueId, Tensor>();
  readonly #shares: Readonly<Record<Axis, Map<ValueId, Tensor>>> = { batch: new Map(), expert: new Map() };
  readonly #divisions: Readonly<Record<Axis, (Samples | null)[]>>;
  readonly #slots = new Map<number, { readonly all: Tensor; own?: Tensor; places?: Tensor }>();
  /** Whether every rank has as many samples. */
  readonly #divides: boolean;
  #rank: Tensor | undefined;

  constructor(graph: Graph, builder: GraphBuilder, ranks: number) {
    this.#graph = graph;
    this.#builder = builder;
    this.#ranks = ranks;
    this.#divisions = { batch: graph.types.map(() => null), expert: graph.types.map(() => null) };
    this.#divides = graph.inputs.every(({ value, kind }) => {
      const { shape, axes } = graph.types[value];
      return kind !== 'input' || axes?.[0] !== 'batch' || (typeof shape[0] === 'number' && shape[0] % ranks === 0);
    });
  }

  /** Takes over an input of the global graph. */
  input(input: GraphInput): void {
    const { value, name, kind } = input,
      type = this.#graph.types[value],
      axis = type.axes?.[0] ?? null,
      [size] = type.shape;
    const cut =
      axis !== null &&
      typeof size === 'number' &&
      size % this.#ranks === 0 &&
      (axis === 'expert' ? kind === 'state' : this.#divides);
    const own: TensorType =
      cut && typeof size === 'number'
        ? divided({ dtype: type.dtype, shape: [size / this.#ranks, ...type.shape.slice(1)] }, axis)
        : { dtype: type.dtype, shape: type.shape.map((d) => this.#dim(d)) };
    const made =
      input.kind === 'state'
        ? this.#builder.newState(name, own, input.role)
        : this.#builder.input(input.kind, name, own, input.data);
    if (cut) this.setShare(value, axis, made, { dim: 0, each: 1 });
    else this.#whole.set(value, made);
  }

  #dim(d: TensorType['shape'][number]): TensorType['shape'][number] {
    if (typeof d === 'number') return d;
    return d.kind === 'bounded' ? { ...d, count: this.whole(d.count).id } : { ...d, offsets: this.whole(d.offsets).id };
  }

  /** int32 []: the number of this rank. */
  rank(): Tensor {
    return (this.#rank ??= this.#builder.input('input', RANK, { dtype: 'int32', shape: [] }));
  }

  #slotsOf(experts: number): { readonly all: Tensor; own?: Tensor; places?: Tensor } {
    const found = this.#slots.get(experts) ?? {
      all: this.#builder.input('input', slotsName(experts), { dtype: 'int32', shape: [experts] }),
    };
    this.#slots.set(experts, found);
    return found;
  }

  /** int32 [experts]: the expert in each slot. */
  slots(experts: number): Tensor {
    return this.#slotsOf(experts).all;
  }

  /** int32 [experts / ranks]: the experts in this rank's slots. */
  ownSlots(experts: number): Tensor {
    const slots = this.#slotsOf(experts);
    return (slots.own ??= this.apart(() => ownPart(slots.all, this.rank(), { axis: 0, ranks: this.#ranks })));
  }

  /** int32 [experts]: the slot of each expert. */
  places(experts: number): Tensor {
    const slots = this.#slotsOf(experts);
    return (slots.places ??= this.apart(() => permute(reshape(slots.all, [experts, 1]), experts).order));
  }

  /** Adds nodes whose results other nodes may read too: they belong to no part that is recomputed. */
  apart<T>(make: () => T): T {
    const { recompute, notBefore } = this.#builder;
    this.#builder.recompute = this.#builder.notBefore = undefined;
    try {
      return make();
    } finally {
      this.#builder.recompute = recompute;
      this.#builder.notBefore = notBefore;
    }
  }

  /** By value of the global graph: the dimension of which this rank has a share. */
  divisions(axis: Axis): readonly (Samples | null)[] {
    return this.#divisions[axis];
  }

  /** The axis along which inputs are divided; null: along none, or along several, so that the whole is needed. */
  axisOf(inputs: readonly ValueId[]): Axis | null {
    const batch = inputs.some((v) => this.#shares.batch.has(v)),
      expert = inputs.some((v) => this.#shares.expert.has(v));
    return batch === expert ? null : batch ? 'batch' : 'expert';
  }

  /** Whether a state is divided by expert. */
  isDivided(state: ValueId): boolean {
    return this.#shares.expert.has(state);
  }

  /** A state as it lies on this rank. */
  stored(state: ValueId): Tensor {
    return this.#shares.expert.get(state) ?? this.whole(state);
  }

  setWhole(values: readonly ValueId[], tensors: readonly Tensor[]): void {
    values.forEach((v, i) => this.#whole.set(v, tensors[i]));
  }

  setShare(v: ValueId, axis: Axis, tensor: Tensor, samples: Samples): void {
    this.#shares[axis].set(v, tensor);
    this.#divisions[axis][v] = samples;
  }

  /** The whole value, on every rank. */
  whole(v: ValueId): Tensor {
    const found = this.#whole.get(v),
      batch = this.#shares.batch.get(v),
      expert = this.#shares.expert.get(v);
    if (found) return found;
    if (batch) {
      const made = this.#gathered(batch, this.#divisions.batch[v]?.dim ?? 0);
      this.#whole.set(v, made);
      return made;
    }
    if (!expert) throw new Error(`value %${v} has no form that all ranks have`);
    const slots = gatherRanks(expert, { ranks: this.#ranks, axis: 'expert' }),
      made = gather(slots, this.places(boundOf(slots.shape[0])));
    this.#whole.set(v, made);
    return made;
  }

  #gathered(x: Tensor, dim: number): Tensor {
    const all = (t: Tensor): Tensor => gatherRanks(t, { ranks: this.#ranks, axis: 'batch' });
    if (dim === 0) return all(x);
    const others = x.shape.map((_, d) => d).filter((d) => d !== dim),
      order = [dim, ...others];
    return transpose(
      all(transpose(x, order)),
      x.shape.map((_, d) => order.indexOf(d)),
    );
  }

  /** This rank's share of a value. along: the dimension that is divided if the value is whole; null: it stays whole. */
  share(v: ValueId, axis: Axis, along: number | null): Tensor {
    const found = this.#shares[axis].get(v);
    if (found) return found;
    const whole = this.whole(v);
    if (along === null) return whole;
    if (axis === 'expert') return gather(whole, this.ownSlots(boundOf(whole.shape[0])));
    return ownPart(whole, this.rank(), { axis: along, ranks: this.#ranks });
  }

  /** The part of a value that belongs to this rank's experts: its first dimension goes over experts. */
  ofExperts(v: ValueId): Tensor {
    return this.share(v, 'expert', 0);
  }
}
