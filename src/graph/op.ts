// What an op is: one record with its shape rule, its gradient, its lowering to the kernel language and a plain slow
// reference. An op is one file in ops/ and one row in a table (ops/elementwise/index.ts, ops/index.ts for others); devices
// and conformance tests follow.
import type { Dim, TensorType } from '../base/shape.ts';
import type { Expr, Exprs } from '../kernel/expr.ts';
import type { Extent, Local, Stmt } from '../kernel/kernel.ts';
import type { Attrs, ValueId } from './graph.ts';
import type { OpName } from './op-attrs.ts';
import type { Tensor } from './tensor.ts';

/**
 * Dtypes of an input: float32 and float64; those and integers; all that is computed; also the 16-bit floats, which are
 * only moved.
 */
export type Takes = 'floats' | 'numbers' | 'any' | 'stored';

/** Where a function of one number has a gradient: between `from` and `to`, but for `kinks`. Default: everywhere. */
export interface Smooth {
  readonly from?: number;
  readonly to?: number;
  readonly kinks?: readonly number[];
}

export interface Op<A extends Attrs = Attrs> {
  /** A comment beside it says in one line what comes out, in terms of what goes in. */
  readonly name: OpName;
  /** What its inputs may be, in order; `any` where nothing is said. */
  readonly takes?: readonly Takes[];
  /**
   * Of an op that computes each element by itself: its number of inputs, how many of the first ones are bools, and where
   * it has a gradient.
   */
  readonly elementwise?: { readonly arity: number; readonly bools: number; readonly smooth: Smooth };
  /** Inputs of which only the type matters. */
  readonly unread?: readonly number[];
  /**
   * The input (if it is given) in whose memory the first result is made: nobody else reads it. Kernels see the result
   * alone, as a buffer that holds what they begin with. A list: of the first results, one each.
   */
  readonly inPlaceOf?: number | readonly number[];
  /**
   * Its int32 results never exceed the bound of a dimension whose rows they count, by construction: kernels may trust
   * them.
   */
  readonly countsAreInBounds?: boolean;
  /** Its attributes say how many rows there may be, and nothing of what is computed. */
  readonly attrsOnlySizeDims?: boolean;
  /**
   * Types of the outputs; throws ShapeError. `ids` are the inputs' values, for dimensions that refer to one (counts,
   * offsets).
   */
  infer(inputs: readonly TensorType[], attrs: A, ids: readonly ValueId[]): TensorType[];
  /**
   * Gradients to the inputs (null: none flows) from those to the outputs (null where nothing reads that output).
   * Absent: not differentiable; to ask for a gradient through a float result of it is an error.
   */
  grad?(call: GradCall<A>): (Tensor | null)[];
  /** Where a float result has no gradient: why, and what to use instead. */
  readonly noGrad?: string;
  readonly lower: Lowering<A>;
  /**
   * Float64 arrays in, float64 arrays out (integers and bools as their values); `types` have counts resolved to
   * run-time sizes in `rows`, see RefCall.
   */
  reference(call: RefCall<A>): Float64Array[];
}

export interface GradCall<A extends Attrs = Attrs> {
  readonly inputs: readonly Tensor[];
  readonly outputs: readonly Tensor[];
  readonly douts: readonly (Tensor | null)[];
  readonly attrs: A;
  /** Whether each input needs a gradient: others may be left null. */
  readonly needs: readonly boolean[];
  /**
   * The gradient to input i that the graph behind this node gives, to go on from: who takes it gives the whole of it
   * back. alike: only what nodes of this op that were made with this one gave.
   */
  takeAccumulatedGrad(i: number, of?: 'all' | 'alike'): Tensor | null;
}

export interface RefCall<A extends Attrs = Attrs> {
  readonly inputs: readonly Float64Array[];
  readonly inTypes: readonly TensorType[];
  readonly outTypes: readonly TensorType[];
  readonly attrs: A;
  /**
   * How many outermost rows of a tensor of this type exist in this run (its size, or its count); rows beyond stay
   * NaN/untouched.
   */
  rows(type: TensorType): number;
  /** Offsets of a segmented type, length segments + 1. */
  offsets(type: TensorType): ArrayLike<number>;
}

/** One element of an input at a multi-index, or at a row-major linear index. */
export interface Reader {
  readonly type: TensorType;
  at(index: readonly Expr[]): Expr;
  linear(index: Expr): Expr;
}

export type Lowering<A extends Attrs = Attrs> =
  /** Output element at a multi-index as an expression of input elements. May contain reductions (row operations). */
  | {
      readonly kind: 'map';
      readonly weight?: number;
      /** For ops that reduce: how often they go over the elements of their input. */
      readonly passes?: number;
      /** It reads a part of its input, others of its kind the other parts. */
      readonly readsDisjointSlice?: boolean;
      /** It reads each element of its input once, however large its result is. */
      readonly once?: boolean;
      /** Its result is written to memory, also where computing it again at each reader looks cheaper. */
      stored?(attrs: A, output: number): boolean;
      at(call: MapCall<A>, index: readonly Expr[], output: number): Expr;
      /**
       * The same by row-major linear index, where the op reads all its (equally large) inputs at that index; null where
       * it does not.
       */
      linear?(call: MapCall<A>, linear: Expr, output: number): Expr | null;
    }
  /**
   * Sum of products; what the epilogue stores is decided when kernels are fused. `stored`: each element of an input
   * enters many products, so that inputs are never computed while they are packed.
   */
  | { readonly kind: 'matmul'; readonly stored?: boolean; build(call: MatmulCall<A>): MatmulSpec }
  /**
   * Loops of its own, over materialised inputs and outputs. `update`: it also reads what it has stored. `strided`:
   * inputs that may be parts of what is stored, which it finds by `from` alone.
   */
  | {
      readonly kind: 'loops';
      readonly update?: boolean;
      readonly strided?: readonly number[];
      build(call: LoopCall<A>): LoopSpec;
    };

export interface MapCall<A extends Attrs = Attrs> {
  readonly e: Exprs;
  readonly inputs: readonly Reader[];
  readonly outTypes: readonly TensorType[];
  readonly attrs: A;
  /** Extent of a dimension of a type, as an expression: its size, or its count read at run time. */
  extent(type: TensorType, axis: number): Expr;
  /**
   * A run-time integer that is no part of the kernel's text, so that kernels which differ in it alone share their code.
   */
  int(name: string, value: number): Expr;
}

export interface MatmulCall<A extends Attrs = Attrs> extends MapCall<A> {
  /** A dimension's size as a matmul takes it: the number, or where the counts or offsets are. */
  size(dim: Dim): Extent;
  /** The same for all segments together, times a fixed number: rows of a dimension that is merged with fixed ones. */
  all(dim: Dim, times: number): Extent;
  /** First row of segment `z` of a segmented dimension, int32. */
  offset(dim: Dim, z: Expr): Expr;
}

export interface MatmulSpec {
  readonly groups: number;
  readonly m: Extent;
  readonly n: number;
  readonly depth: Extent;
  a(z: Expr, i: Expr, k: Expr): Expr;
  b(z: Expr, k: Expr, j: Expr): Expr;
  /** Multi-index of the output that (z, i, j) is. */
  index(z: Expr, i: Expr, j: Expr): Expr[];
}

/**
 * Where a value lies for loops: element `index` of it is element at(index) of a buffer, with constant steps along each
 * axis.
 */
export interface Place {
  readonly buffer: number;
  readonly strides: readonly number[];
  at(index: readonly Expr[]): Expr;
}

export interface LoopCall<A extends Attrs = Attrs> {
  readonly e: Exprs;
  readonly inTypes: readonly TensorType[];
  readonly outTypes: readonly TensorType[];
  /** Buffers of the inputs (-1 for those that the op does not read) and of the outputs. */
  readonly inputs: readonly number[];
  readonly outputs: readonly number[];
  /**
   * The same with how to find an element, for inputs that may be parts of what is stored (Lowering's `strided`) and for
   * outputs.
   */
  readonly from: readonly Place[];
  readonly to: readonly Place[];
  readonly attrs: A;
  readonly k: LoopWriter;
}

/**
 * Writes loops by hand. Consecutive stores in one body are simultaneous: all values are computed before the first is
 * stored.
 */
export interface LoopWriter {
  scalar(dtype: Local['dtype']): { readonly id: number; get(): Expr; set(value: Expr): Stmt };
  array(
    dtype: Local['dtype'],
    length: number,
  ): { readonly id: number; at(index: Expr): Expr; set(index: Expr, value: Expr): Stmt; fill(value: number): Stmt };
  loop(extent: Expr | number, body: (index: Expr) => Stmt[]): Stmt;
  vector(extent: Expr | number, body: (index: Expr) => Stmt[]): Stmt;
  when(condition: Expr, body: Stmt[]): Stmt;
  load(buffer: number, index: Expr): Expr;
  /** An int32 element as an index. */
  loadIndex(buffer: number, index: Expr): Expr;
  store(buffer: number, index: Expr, value: Expr): Stmt;
  /** In-order sum or max over a range in 16 lanes (DESIGN section 2), into a fresh scalar. */
  reduce(op: 'sum' | 'max', extent: Expr | number, value: (index: Expr) => Expr): { readonly stmt: Stmt; get(): Expr };
  extent(type: TensorType, axis: number): Expr;
  /** A run-time integer that is no part of the kernel's text. */
  int(value: number): Expr;
}

export interface LoopSpec {
  readonly grid: { readonly extent: Expr | number; readonly grain: number };
  body(index: Expr): Stmt[];
}
