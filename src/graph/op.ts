// An op is one record: its shape rule, its gradient, its lowering to the kernel language. To add an op, write one file
// in ops/ and one row in a table (ops/elementwise/index.ts; ops/index.ts for the others, which also have a plain slow
// reference in references/).
// Devices and conformance tests use the record.
import type { DType } from '../base/dtype.ts';
import type { KernelParts, PartsAttrs } from '../base/parts.ts';
import type { Dim, TensorType } from '../base/shape.ts';
import type { Expr, Exprs } from '../kernel/expr.ts';
import type { Extent, Local, Stmt, StoreStmt } from '../kernel/kernel.ts';
import type { Attrs, ValueId } from './graph.ts';
import type { Limits } from './limits.ts';
import type { OpName } from './op-attrs.ts';
import type { Tensor } from './tensor.ts';

/**
 * Dtypes that an input may have. floats: float32, float64. numbers: floats and integers. any: all that kernels compute
 * in. stored: any, and the 16-bit floats, which are only moved.
 */
export type Takes = 'floats' | 'numbers' | 'any' | 'stored';

/** Where a function of one number has a gradient: between `from` and `to`, but for `kinks`. Default: everywhere. */
export interface Smooth {
  readonly from?: number;
  readonly to?: number;
  readonly kinks?: readonly number[];
}

export interface Op<A extends Attrs = Attrs> {
  /** By convention, the line above says what comes out, in terms of what goes in. */
  readonly name: OpName;
  /** What each input may be, in order; `any` where nothing is said. */
  readonly takes?: readonly Takes[];
  /**
   * For an elementwise op: the number of its inputs, how many of the first ones are bools, and where it has a gradient.
   */
  readonly elementwise?: { readonly arity: number; readonly bools: number; readonly smooth: Smooth };
  /** Inputs of which the op reads only the type, not the elements. */
  readonly unread?: readonly number[];
  /**
   * Inputs and results that are activations, by number: memory may hold them in 16 bits (passes/round-activations.ts).
   * Ops without them (softmax, sums, losses) read float32 that was not rounded for them.
   */
  readonly activations?: { readonly inputs: readonly number[]; readonly outputs: readonly number[] };
  /** Its result is made for gradients alone: it is rounded as its first input is. */
  readonly savedForGradients?: true;
  /**
   * The elements of its results are elements of its first input, or of all its inputs, or zeros. An op with 'first'
   * takes 16-bit floats there (`takes`): passes/narrow-moves.ts gives it these.
   */
  readonly moves?: 'first' | 'all';
  /**
   * The input in whose memory the first result is written, if that input is given: the op must be its only reader. The
   * kernel has one buffer for both, with access 'update'. A list: one input for each of the first results.
   */
  readonly inPlaceOf?: number | readonly number[];
  /**
   * Row r of its results belongs to the sample of row r of its inputs, where the outermost dimensions are the same
   * (passes/samples.ts).
   */
  readonly keepsRows?: boolean;
  /**
   * By construction, its int32 results never exceed the bound of the dimension whose rows they count: kernels may trust
   * them.
   */
  readonly countsAreInBounds?: boolean;
  /** Its attributes only bound numbers of rows, and do not change what is computed. */
  readonly attrsOnlySizeDims?: boolean;
  /** Types of the outputs; throws ShapeError. `ids`: the input values, for dimensions whose rows an input counts. */
  infer(inputs: readonly TensorType[], attrs: A, ids: readonly ValueId[]): TensorType[];
  /**
   * Gradients of the inputs (null: none) from the gradients of the outputs (null where nothing reads that output). If
   * it is absent, the op is not differentiable: to ask for a gradient through a float result of it is an error.
   */
  grad?(call: GradCall<A>): (Tensor | null)[];
  /** For an op without `grad`: why there is no gradient, and what to use instead. */
  readonly noGrad?: string;
  readonly lower: Lowering<A>;
  /**
   * Computes the outputs in plain loops: float64 arrays in and out, with integers and bools as numbers. Elementwise ops
   * have it here, since passes/fold.ts computes constants with it; the others in references/.
   */
  reference?(call: RefCall<A>): Float64Array[];
  /** The same for all ranks together, of an op that exchanges data between them: the results of each rank. */
  referenceOfRanks?(calls: readonly RefCall<A>[]): Float64Array[][];
}

export interface GradCall<A extends Attrs = Attrs> {
  readonly inputs: readonly Tensor[];
  readonly outputs: readonly Tensor[];
  readonly douts: readonly (Tensor | null)[];
  readonly attrs: A;
  /** Whether each input needs a gradient; the others may be null. */
  readonly needs: readonly boolean[];
  /**
   * The gradient of input i that was accumulated so far, from the nodes behind this one. The op that takes it must add
   * to it and return the whole sum. alike: only what nodes of the same op, made together with this one, have added.
   */
  takeAccumulatedGrad(i: number, of?: 'all' | 'alike'): Tensor | null;
}

export interface RefCall<A extends Attrs = Attrs> {
  readonly inputs: readonly Float64Array[];
  readonly inTypes: readonly TensorType[];
  readonly outTypes: readonly TensorType[];
  readonly attrs: A;
  /**
   * How many outermost rows of a tensor of this type exist in this run: its size or its count. Rows beyond are not
   * read; in results they stay NaN.
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
  /**
   * Gives an output element at a multi-index as an expression of input elements. It may contain reductions (row
   * operations).
   */
  | {
      readonly kind: 'map';
      readonly weight?: number;
      /** For ops that reduce: how many times they read each element of their input. */
      readonly passes?: number;
      /** The op reads a part of its input; other nodes of the same op read the other parts. */
      readonly readsDisjointSlice?: boolean;
      /** The op reads each element of its input once, however large its result is. */
      readonly readsEachInputOnce?: boolean;
      /** Whether the result is written to memory even where recomputing it at each reader looks cheaper. */
      stored?(attrs: A, output: number, limits: Limits): boolean;
      at(call: MapCall<A>, index: readonly Expr[], output: number): Expr;
      /**
       * The element at a row-major linear index, for ops that read all their (equally large) inputs at that same index;
       * null for attributes with which the op does not.
       */
      linear?(call: MapCall<A>, linear: Expr, output: number): Expr | null;
    }
  /**
   * A sum of products. `stored`: each element of an input enters many products, so that inputs are never computed while
   * they are packed, but stored before.
   */
  | { readonly kind: 'matmul'; readonly stored?: boolean; build(call: MatmulCall<A>): MatmulSpec }
  /**
   * Loops that the op writes itself, over stored inputs and outputs. `update`: the kernel also reads what it has
   * stored. `strided`: inputs that may be parts of a stored value; the op must find their elements by `from`.
   */
  | {
      readonly kind: 'loops';
      readonly update?: boolean;
      readonly strided?: readonly number[];
      build(call: LoopCall<A>): LoopSpec;
    }
  /**
   * Data that ranks exchange: no kernel, but a function of the library that joins the ranks. Inputs and results are
   * stored. ints: what the function gets beside their places (device/ranks.ts).
   */
  | { readonly kind: 'collective'; ints(call: CollectiveCall<A>): number[] };

export interface CollectiveCall<A extends Attrs = Attrs> {
  readonly inTypes: readonly TensorType[];
  readonly outTypes: readonly TensorType[];
  readonly attrs: A;
}

export interface MapCall<A extends Attrs = Attrs> {
  readonly e: Exprs;
  readonly inputs: readonly Reader[];
  readonly outTypes: readonly TensorType[];
  readonly attrs: A;
  /** The extent of a dimension of a type as an expression: its size, or its count, read at run time. */
  extent(type: TensorType, axis: number): Expr;
  /** The parts of a sum over a dimension, with `each` elements for every element of it. */
  parts(attrs: PartsAttrs, dim: Dim, each: number): KernelParts | null;
  /** A run-time integer. It is not in the kernel's text, so that kernels which differ only in it share their code. */
  int(name: string, value: number): Expr;
}

export interface MatmulCall<A extends Attrs = Attrs> extends MapCall<A> {
  /** The size of a dimension as a matmul takes it: a number, or the buffer of its count or offsets. */
  size(dim: Dim): Extent;
  /** The rows of all segments together, times a fixed number: for a dimension that is merged with fixed ones. */
  all(dim: Dim, times: number): Extent;
  /** The first row of segment `z` of a segmented dimension, int32. */
  offset(dim: Dim, z: Expr): Expr;
}

export interface MatmulSpec {
  readonly groups: number;
  readonly m: Extent;
  readonly n: number;
  readonly depth: Extent;
  readonly parts?: KernelParts | null;
  a(z: Expr, i: Expr, k: Expr): Expr;
  b(z: Expr, k: Expr, j: Expr): Expr;
  /** The multi-index of the output element (z, i, j). */
  index(z: Expr, i: Expr, j: Expr): Expr[];
}

/**
 * Where a value lies for loops: its element `index` is element at(index) of a buffer, with constant steps along each
 * axis.
 */
export interface Place {
  readonly buffer: number;
  /** In memory. A load gives the dtype of the input: it converts 16-bit floats that stand for float32. */
  readonly dtype: DType;
  readonly strides: readonly number[];
  at(index: readonly Expr[]): Expr;
}

export interface LoopCall<A extends Attrs = Attrs> {
  readonly e: Exprs;
  readonly inTypes: readonly TensorType[];
  readonly outTypes: readonly TensorType[];
  /** Buffers of the inputs (-1 for an input that the op does not read) and of the outputs. */
  readonly inputs: readonly number[];
  readonly outputs: readonly number[];
  /**
   * Where the elements of inputs and outputs lie: for inputs that may be parts of a stored value (Lowering's
   * `strided`).
   */
  readonly from: readonly Place[];
  readonly to: readonly Place[];
  readonly attrs: A;
  readonly k: LoopWriter;
  readonly limits: Limits;
}

export interface LocalScalar {
  readonly id: number;
  get(): Expr;
  set(value: Expr): Stmt;
}
export interface LocalArray {
  readonly id: number;
  at(index: Expr): Expr;
  set(index: Expr, value: Expr): Stmt;
  fill(value: number): Stmt;
}

/**
 * Writes loops by hand. Consecutive stores in one body are simultaneous: all values are computed before the first is
 * stored.
 */
export interface LoopWriter {
  scalar(dtype: Local['dtype']): LocalScalar;
  array(dtype: Local['dtype'], length: number): LocalArray;
  loop(extent: Expr | number, body: (index: Expr) => Stmt[]): Stmt;
  vector(extent: Expr | number, body: (index: Expr) => Stmt[]): Stmt;
  when(condition: Expr, body: Stmt[]): Stmt;
  /** Counts keys (int32) in `counts`, an int32 array. */
  histogram(counts: LocalArray, extent: Expr, key: (index: Expr) => Expr): Stmt;
  /** Makes an int32 array the sums of the elements before each; `total`, an int32 scalar, becomes the sum of all. */
  scan(array: LocalArray, total: LocalScalar): Stmt;
  /** Numbers iterations by their keys (int32), from `next` on: an int32 array, which counts on (kernel.ts). */
  rank(
    next: LocalArray,
    extent: Expr,
    key: (index: Expr) => Expr,
    body: (index: Expr, place: Expr) => StoreStmt[],
  ): Stmt;
  load(buffer: number, index: Expr): Expr;
  /** An int32 element of a buffer, as an index. */
  loadIndex(buffer: number, index: Expr): Expr;
  store(buffer: number, index: Expr, value: Expr): StoreStmt;
  extent(type: TensorType, axis: number): Expr;
  parts(attrs: PartsAttrs, dim: Dim, each: number): KernelParts | null;
  /** A run-time integer, which is not in the kernel's text. */
  int(value: number): Expr;
}

export interface LoopSpec {
  /** `work` of an iteration in elements; null: enough for a task of its own (kernel.ts). */
  readonly grid: { readonly extent: Expr | number; readonly work: number | null };
  body(index: Expr): Stmt[];
}
