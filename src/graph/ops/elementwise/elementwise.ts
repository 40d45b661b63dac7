// What all elementwise ops share: broadcasting of shapes, reading of stretched inputs, summing a gradient back to a
// stretched input's shape, and a reference loop. An elementwise op's own file says only what it computes.
import type { DType } from '../../../base/dtype.ts';
import { ShapeError } from '../../../base/errors.ts';
import {
  boundOf,
  broadcastShapes,
  elements,
  sameShape,
  sizes,
  stridesOf,
  type Dim,
  type TensorType,
} from '../../../base/shape.ts';
import type { Expr, Exprs } from '../../../kernel/expr.ts';
import type { GradCall, MapCall, Op, Reader, RefCall, Smooth, Takes } from '../../op.ts';
import type { Attrs } from '../../graph.ts';
import type { NoAttrs, OpName } from '../../op-attrs.ts';
import { emit1, lift, type Tensor } from '../../tensor.ts';
import { unlike } from '../checked.ts';

export interface Elementwise<A extends Attrs> {
  readonly name: OpName;
  readonly arity: number;
  /** What all inputs must be, the same dtype for all; floats and integers by default. */
  readonly takes?: Takes | 'bools' | 'a bool and two alike';
  /** Rough cost of one element in floating-point operations: decides what is recomputed and what is stored. */
  readonly weight?: number;
  /** The result is written to memory, whatever it costs to compute it again. */
  readonly stored?: boolean;
  /** As in Op. */
  readonly savedForGradients?: true;
  /** Where it has a gradient: the conformance tests draw their values there. */
  readonly smooth?: Smooth;
  /** Dtype of the result; that of the first input by default. */
  dtype?(inputs: readonly DType[], attrs: A): DType;
  grad?(call: GradCall<A>, dout: Tensor): (Tensor | null)[];
  /** `linear`: row-major index of the element. */
  expr(e: Exprs, x: readonly Expr[], dtype: DType, call: MapCall<A>, linear: Expr): Expr;
  /** The same of numbers, in float64. Of integers the result is taken modulo 2^32. */
  value(x: readonly number[], attrs: A, dtypes: Dtypes): number;
}

/** Of the inputs and of the result. */
export interface Dtypes {
  readonly from: readonly DType[];
  readonly to: DType;
}

/** Index of a broadcast input's element, given that of the result. */
export function broadcastIndex(e: Exprs, shape: readonly Dim[], index: readonly Expr[]): Expr[] {
  const skip = index.length - shape.length;
  return shape.map((d, i) => (d === 1 ? e.index(0) : index[i + skip]));
}

export const readBroadcast = (e: Exprs, reader: Reader, index: readonly Expr[]): Expr =>
  reader.at(broadcastIndex(e, reader.type.shape, index));

function linearOf(call: MapCall, index: readonly Expr[]): Expr {
  const strides = stridesOf(call.outTypes[0].shape);
  return call.e.linear(
    0,
    index.map((i, d) => [strides[d], i]),
  );
}

/** Sums a gradient over the dimensions along which `to` was stretched. */
export function unbroadcast(grad: Tensor, to: TensorType): Tensor {
  const lead = grad.shape.length - to.shape.length;
  const axes = grad.shape.flatMap((d, i) => (i < lead || (to.shape[i - lead] === 1 && d !== 1) ? [i] : []));
  if (axes.length === 0) return grad;
  const summed = emit1('sum', [grad], { axes });
  return summed.shape.length === to.shape.length
    ? summed
    : emit1('reshape', [summed], { shape: to.shape.map(boundOf) });
}

function checkDtypes(name: string, takes: Elementwise<Attrs>['takes'], dtypes: readonly DType[]): void {
  const alike = takes === 'a bool and two alike' ? dtypes.slice(1) : dtypes,
    got = dtypes.join(', ');
  if (alike.some((d) => d !== alike[0])) throw unlike(name, ...dtypes);
  const bool = takes === 'bools' || takes === 'a bool and two alike';
  if (bool && dtypes[0] !== 'bool') throw new ShapeError(`${name} takes ${takes}, got ${got}`, 'use cast');
}

/** What each of the inputs may be. */
function takesOf({ takes = 'numbers', arity }: Pick<Elementwise<Attrs>, 'takes' | 'arity'>): Takes[] {
  if (takes === 'bools') return Array.from({ length: arity }, () => 'any');
  if (takes === 'a bool and two alike') return ['any', 'stored', 'stored'];
  return Array.from({ length: arity }, () => takes);
}

/** How many of the first inputs must be bools. */
const boolsOf = ({ takes, arity }: Pick<Elementwise<Attrs>, 'takes' | 'arity'>): number =>
  takes === 'bools' ? arity : takes === 'a bool and two alike' ? 1 : 0;

/** A number as one of an integer dtype: modulo 2^32; floats as they are. */
export const wrapped = (x: number, dtype: DType): number =>
  dtype === 'int32' ? x | 0 : dtype === 'uint32' ? x >>> 0 : x;

export function elementwise<A extends Attrs = Attrs>(spec: Elementwise<A>): Op<A> {
  const { name, arity, weight = 1 } = spec;
  return {
    name,
    takes: takesOf(spec),
    elementwise: { arity, bools: boolsOf(spec), smooth: spec.smooth ?? {} },
    ...(spec.savedForGradients && { savedForGradients: true }),
    infer(inputs, attrs) {
      if (inputs.length !== arity) throw new ShapeError(`${name} takes ${arity} inputs, got ${inputs.length}`);
      const shape = inputs.reduce<readonly Dim[]>((s, t) => broadcastShapes(name, s, t.shape), []);
      checkDtypes(
        name,
        spec.takes,
        inputs.map((t) => t.dtype),
      );
      return [
        {
          dtype: spec.dtype
            ? spec.dtype(
                inputs.map((t) => t.dtype),
                attrs,
              )
            : inputs[0].dtype,
          shape,
        },
      ];
    },
    ...(spec.grad && {
      grad: (call: GradCall<A>) => {
        const dout = call.douts[0];
        if (!dout || !spec.grad) return call.inputs.map(() => null);
        return spec.grad(call, dout).map((g, i) => g && unbroadcast(g, call.inputs[i].type));
      },
    }),
    lower: {
      kind: 'map',
      weight,
      ...(spec.stored && { stored: () => true }),
      at: (call, index) =>
        spec.expr(
          call.e,
          call.inputs.map((r) => readBroadcast(call.e, r, index)),
          call.outTypes[0].dtype,
          call,
          linearOf(call, index),
        ),
      linear(call, l) {
        const whole = call.outTypes[0].shape,
          zero = call.e.index(0);
        const one = (r: Reader): boolean => r.type.shape.length === 0;
        if (!call.inputs.every((r) => one(r) || sameShape(r.type.shape, whole))) return null;
        return spec.expr(
          call.e,
          call.inputs.map((r) => r.linear(one(r) ? zero : l)),
          call.outTypes[0].dtype,
          call,
          l,
        );
      },
    },
    reference(call) {
      const dtypes: Dtypes = { from: call.inTypes.map((t) => t.dtype), to: call.outTypes[0].dtype };
      return [mapReference(call, (x) => wrapped(spec.value(x, call.attrs, dtypes), dtypes.to))];
    },
  };
}

/** A function on tensors that carries the op that it emits. */
export const withOp = <A extends Attrs, F extends (...args: never[]) => Tensor>(op: Op<A>, call: F) =>
  Object.assign(call, { op });

type Spec = Omit<Elementwise<NoAttrs>, 'arity'>;

/** A function of one tensor. */
export function unary(spec: Spec) {
  const op = elementwise({ ...spec, arity: 1 });
  return withOp(op, (a: Tensor): Tensor => emit1(op.name as 'neg', [a]));
}

/** A function of two tensors, or of a tensor and a number. */
export function binary(spec: Spec) {
  const op = elementwise({ ...spec, arity: 2 });
  return withOp(op, (a: Tensor, b: Tensor | number): Tensor => emit1(op.name as 'add', [a, lift(a, b)]));
}

/** Runs a scalar function over broadcast inputs, over the rows that exist. */
function mapReference(call: RefCall, f: (x: readonly number[]) => number): Float64Array {
  const type = call.outTypes[0];
  const out = new Float64Array(elements(type.shape)).fill(NaN);
  const dims = sizes(type.shape);
  if (dims.length > 0) dims[0] = call.rows(type);
  const strides = call.inTypes.map((t) => {
    const own = stridesOf(t.shape),
      skip = dims.length - t.shape.length;
    return dims.map((_, i) => (i < skip || t.shape[i - skip] === 1 ? 0 : own[i - skip]));
  });
  const count = dims.reduce((n, d) => n * d, 1);
  const x = new Array<number>(call.inputs.length);
  const at = dims.map(() => 0);
  for (let flat = 0; flat < count; flat++) {
    for (let j = 0; j < x.length; j++) {
      let offset = 0;
      for (let d = 0; d < dims.length; d++) offset += at[d] * strides[j][d];
      x[j] = call.inputs[j][offset];
    }
    out[flat] = f(x);
    for (let d = dims.length - 1; d >= 0 && ++at[d] === dims[d]; d--) at[d] = 0;
  }
  return out;
}
