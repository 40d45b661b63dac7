// A kernel: loops over scalar expressions (form 'loops'), or a matrix product (form 'matmul'). It says what is
// computed, in which order sums are added, and what is independent; how a machine divides and runs it is decided later
// (schedule/). Plain data without addresses and bounds: two layers with the same shapes share one kernel.
import type { DType } from '../base/dtype.ts';
import type { KernelParts } from '../base/parts.ts';
import type { Expr, ReduceOp, Scalar, Var } from './expr.ts';

/** A tensor in device memory. `dtype` is that of memory: kernels compute in float32 (float64 for float64). */
export interface Buffer {
  readonly dtype: DType;
  readonly access: 'read' | 'write' | 'update';
}

/** A scalar (length 0) or an array that belongs to the kernel and is private to a task. */
export interface Local {
  readonly dtype: Scalar;
  readonly length: number;
}

export interface IfStmt<S> {
  readonly s: 'if';
  readonly condition: Expr;
  readonly body: readonly S[];
}
export interface SetStmt {
  readonly s: 'set';
  readonly local: number;
  readonly index: Expr | null;
  readonly value: Expr;
}
/** Sets every element of a local array. */
export interface FillStmt {
  readonly s: 'fill';
  readonly local: number;
  readonly value: number;
}
/** Consecutive stores are simultaneous: all values are computed before the first is stored. */
export interface StoreStmt {
  readonly s: 'store';
  readonly buffer: number;
  readonly index: Expr;
  readonly value: Expr;
}

/** Statements that are the same before and after scheduling. `S`: the statements inside them. */
export type CommonStmt<S> = IfStmt<S> | SetStmt | FillStmt | StoreStmt;

export type Stmt =
  | IfStmt<Stmt>
  | SetStmt
  | FillStmt
  | StoreStmt
  | ForStmt
  | ReduceStmt
  | ProductStmt
  | TransposeStmt
  | PrefetchStmt
  | HistogramStmt
  | ScanStmt
  | RankStmt;

/** `parallel`: iterations are independent, and may run at the same time. */
export interface ForStmt {
  readonly s: 'for';
  readonly index: Var;
  readonly extent: Expr;
  readonly parallel: boolean;
  readonly body: readonly Stmt[];
}

/** Reductions over one range in one pass: 16 interleaved partial results in chunks of 4096, joined in a fixed order. */
export interface ReduceStmt {
  readonly s: 'reduce';
  readonly index: Var;
  readonly extent: Expr;
  readonly targets: readonly ReduceTarget[];
}

/** These rows will be read soon: a device may load them into its cache. The rows need not exist. */
export interface PrefetchStmt {
  readonly s: 'prefetch';
  readonly rows: Expr;
  readonly columns: number;
  readonly from: Matrix;
}

export interface ReduceTarget {
  readonly local: number;
  readonly op: ReduceOp;
  readonly value: Expr;
}

/**
 * A small matrix product inside a kernel: adds to to(r, l), for r < rows and l < lanes, the products a(r, k) * b(k, l)
 * for k < depth, k ascending, one fused multiply-add at a time.
 */
export interface ProductStmt {
  readonly s: 'product';
  readonly rows: Expr;
  readonly depth: Expr;
  readonly lanes: number;
  readonly to: Matrix;
  readonly a: Matrix;
  readonly b: Matrix;
}

/**
 * Copies rows to columns: element (r, c) of `from` to element r + lanes c of an array, for r < lanes and c < columns.
 * Of `from` only the first `rows` rows exist: later elements of the array become any finite numbers.
 */
export interface TransposeStmt {
  readonly s: 'transpose';
  readonly rows: Expr;
  readonly lanes: number;
  readonly columns: number;
  readonly from: Matrix;
  readonly to: number;
}

/** Counts keys: for each iteration, element `key` of the int32 array `to` becomes one more. */
export interface HistogramStmt {
  readonly s: 'histogram';
  readonly index: Var;
  readonly extent: Expr;
  readonly key: Expr;
  readonly to: number;
}

/** Element i of an int32 array becomes the sum of the elements before it; `total`, an int32 scalar, the sum of all. */
export interface ScanStmt {
  readonly s: 'scan';
  readonly array: number;
  readonly total: number;
}

/**
 * Numbers iterations by their keys (int32): `place` is element `key` of the int32 array `next`, which then becomes one
 * more. So iterations with the same key get numbers that ascend in their order. `body` runs for each iteration, with
 * its `key` and `place` in int32 scalars; its stores go to other elements than those of other iterations.
 */
export interface RankStmt {
  readonly s: 'rank';
  readonly index: Var;
  readonly extent: Expr;
  readonly value: Expr;
  readonly key: number;
  readonly place: number;
  readonly next: number;
  readonly body: readonly StoreStmt[];
}

/** A matrix in a local array or in a buffer: element (r, c) is at index at + r * rows + c * columns. */
export interface Matrix {
  readonly in: 'local' | 'buffer';
  readonly of: number;
  readonly at: Expr;
  readonly rows: number;
  readonly columns: number;
}

interface KernelBase {
  readonly buffers: readonly Buffer[];
  readonly locals: readonly Local[];
  /** How many run-time integers the kernel takes. */
  readonly ints: number;
}

/** The iterations of `grid` are independent: no two of them store to the same element. */
export interface LoopKernel extends KernelBase {
  readonly form: 'loops';
  readonly grid: Grid;
  readonly body: readonly Stmt[];
}

export interface Grid {
  readonly index: Var;
  readonly extent: Expr;
  /**
   * The work of an iteration, in elements that are computed; null: enough for a task of its own. A schedule divides the
   * grid into tasks by it.
   */
  readonly work: number | null;
  /** Whether each iteration computes one element, beside those of its neighbours in memory. */
  readonly elements: boolean;
  /**
   * Where iterations of elements contain loops: so many neighbours (a row) run loops of equal extents over values that
   * lie side by side. Null for other kernels.
   */
  readonly row: number | null;
}

/**
 * A size: a fixed number; or `times` the number that element `at` of an int32 buffer holds; or one size per group, from
 * an int32[groups + 1] buffer of offsets.
 */
export type Extent =
  number | { readonly count: number; readonly at: number; readonly times: number } | { readonly offsets: number };

/**
 * sum(z, i, j) = a(z, i, k) * b(z, k, j) over k ascending, one fused multiply-add at a time (integers: modulo
 * 2^32); then `epilogue`. i and k count within group z. parts: the sum over k is one in parts (base/parts.ts);
 * the depth is then no offsets.
 */
export interface MatmulKernel extends KernelBase {
  readonly form: 'matmul';
  readonly z: Var;
  readonly i: Var;
  readonly j: Var;
  readonly k: Var;
  readonly groups: number;
  readonly m: Extent;
  readonly n: number;
  readonly depth: Extent;
  readonly parts: KernelParts | null;
  readonly a: Expr;
  readonly b: Expr;
  /** The dtype of the sums. */
  readonly dtype: Scalar;
  /** `row` runs once for each row before its elements, `element` for each element. */
  readonly epilogue: { readonly row: readonly Stmt[]; readonly element: readonly Stmt[] };
}

export type Kernel = LoopKernel | MatmulKernel;
