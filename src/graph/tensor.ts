// A Tensor is a handle on a value of a graph that is being built: what modules pass around, what ops take and return.
import type { DType } from '../base/dtype.ts';
import { UserError } from '../base/errors.ts';
import { boundOf, isDynamic, showType, type Dim, type TensorType } from '../base/shape.ts';
import type { Attrs, ValueId } from './graph.ts';
import type { AttrsOf, OpName } from './op-attrs.ts';

/** What a Tensor knows of its graph. */
export interface Builder {
  emit(op: string, inputs: readonly Tensor[], attrs?: Attrs): Tensor[];
  tensor(id: ValueId): Tensor;
}

export class Tensor<B extends Builder = Builder> {
  readonly builder: B;
  readonly id: ValueId;
  readonly type: TensorType;
  constructor(builder: B, id: ValueId, type: TensorType) {
    this.builder = builder;
    this.id = id;
    this.type = type;
  }
  get shape(): readonly Dim[] {
    return this.type.shape;
  }
  get dtype(): DType {
    return this.type.dtype;
  }
  toString(): string {
    return `%${this.id}: ${showType(this.type)}`;
  }
}

/** Throws if an operand is no tensor, for ops that read an operand's type before they add a node. */
export function checkTensors(op: string, ...given: readonly unknown[]): void {
  const bad = given.find((x) => !(x instanceof Tensor));
  if (bad !== undefined || given.includes(undefined)) builderOf(op, bad);
}

/** Adds a node of the op `op` to the graph of its inputs; gives its outputs. */
export function emit<N extends OpName>(op: N, inputs: readonly Tensor[], ...[attrs]: AttrsOf<N>): Tensor[] {
  return builderOf(op, inputs[0]).emit(op, inputs, attrs);
}

function builderOf(op: string, tensor: unknown): Builder {
  if (tensor instanceof Tensor) return tensor.builder as Builder;
  throw new UserError(
    `ops.${op} takes tensors of a model that is traced, not values of the host`,
    `ops are for a model's forward(x); compile(model, ...) runs it on values`,
  );
}

/** The same for an op with one output. */
export const emit1 = <N extends OpName>(op: N, inputs: readonly Tensor[], ...attrs: AttrsOf<N>): Tensor =>
  emit(op, inputs, ...attrs)[0];

/** A tensor of this shape with `value` in every element, in the graph of `like`; default dtype: that of `like`. */
export const full = (like: Tensor, shape: readonly number[], value: number, dtype: DType = like.dtype): Tensor =>
  builderOf('constant', like).emit('constant', [], { value, dtype, shape })[0];

/** A scalar constant in the graph of `like`. */
export const scalar = (like: Tensor, value: number, dtype: DType = like.dtype): Tensor => full(like, [], value, dtype);

/** Zeros of the dtype and shape of another tensor. */
export function zeros(like: Tensor): Tensor {
  if (!isDynamic(like.shape)) return full(like, like.shape.map(boundOf), 0);
  return emit1('expand', [scalar(like, 0), like], { axes: like.shape.map((_, i) => i) });
}

/** The tensor, or the number as a scalar of the dtype of `like`. */
export const lift = (like: Tensor, x: Tensor | number): Tensor => (typeof x === 'number' ? scalar(like, x) : x);
