// A kernel: loops over scalar expressions (form 'loops'), or a matrix product (form 'matmul'), for which devices have
// code of their own. Plain data without addresses and bounds: two layers with the same shapes share one kernel.
import type { DType } from '../base/dtype.ts';
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

export type Stmt =
  /** `vector`: iterations are independent and may run at the same time in the lanes of a vector. */
  | {
      readonly s: 'for';
      readonly index: Var;
      readonly extent: Expr;
      readonly vector: boolean;
      readonly body: readonly Stmt[];
    }
  | { readonly s: 'if'; readonly condition: Expr; readonly body: readonly Stmt[] }
  | { readonly s: 'set'; readonly local: number; readonly index: Expr | null; readonly value: Expr }
  | { readonly s: 'fill'; readonly local: number; readonly value: number }
  | { readonly s: 'store'; readonly buffer: number; readonly index: Expr; readonly value: Expr }
  /**
   * Reductions over one range in one pass: 16 interleaved partial results in chunks of 4096, joined in a fixed order.
   */
  | {
      readonly s: 'reduce';
      readonly index: Var;
      readonly extent: Expr;
      readonly targets: readonly ReduceTarget[];
      readonly blocks: Blocks | null;
    }
  | ProductStmt
  | TransposeStmt
  /** The element will be read soon: a device may load it into its cache. The element need not exist. */
  | { readonly s: 'prefetch'; readonly buffer: number; readonly index: Expr };
export interface ReduceTarget {
  readonly local: number;
  readonly op: ReduceOp;
  readonly value: Expr;
}

/**
 * The `values` of a reduction for a whole block of 16 elements. `index` is the number of the block: in terms of it, no
 * index is divided by something that differs between the elements of a block.
 */
export interface Blocks {
  readonly index: Var;
  readonly values: readonly Expr[];
}

/**
 * A small matrix product inside a kernel: adds to to(r, l), for r < rows and l < lanes, the products a(r, k) * b(k, l)
 * for k < depth, k ascending, one fused multiply-add at a time. `plain` says the same in other statements. A device
 * with a matrix core may run that instead of `plain`, on `width` lanes: a multiple of 16 for which `to` and `b` have
 * room, with their lanes side by side in memory (columns: 1). width 0: it may not.
 */
export interface ProductStmt {
  readonly s: 'product';
  readonly rows: Expr;
  readonly depth: Expr;
  readonly lanes: number;
  readonly width: number;
  readonly to: Matrix;
  readonly a: Matrix;
  readonly b: Matrix;
  readonly plain: readonly Stmt[];
}

/**
 * Copies rows to columns: element (r, c) of `from` to element r + 16 c of an array, for r < rows <= 16 and c < columns.
 * The other elements of the array are not read. `plain` says the same in other statements. If `core` is true, a device
 * may run faster code instead.
 */
export interface TransposeStmt {
  readonly s: 'turn';
  readonly rows: Expr;
  readonly columns: number;
  readonly from: Matrix;
  readonly to: number;
  readonly core: boolean;
  readonly plain: readonly Stmt[];
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

/**
 * The iterations of `grid` run in parallel, `grain` of them in one task. No two iterations store to the same element.
 */
export interface LoopKernel extends KernelBase {
  readonly form: 'loops';
  readonly grid: { readonly index: Var; readonly extent: Expr; readonly grain: number; readonly vector: boolean };
  readonly body: readonly Stmt[];
}

/**
 * A size: a fixed number; or `times` the number that element `at` of an int32 buffer holds; or one size per group, from
 * an int32[groups + 1] buffer of offsets.
 */
export type Extent =
  number | { readonly count: number; readonly at: number; readonly times: number } | { readonly offsets: number };

/**
 * How an operand of a matmul is copied to the place where the matrix core reads it. `inner` is the variable of the
 * inner loop. If the operand's index divides it, runs of `length` elements need no division: in a run, with `index` =
 * inner / length, the element is `value`.
 */
export interface Packing {
  readonly inner: Var;
  readonly run: { readonly length: number; readonly index: Var; readonly value: Expr } | null;
}

/**
 * sum(z, i, j) = a(z, i, k) * b(z, k, j) over k ascending, one fused multiply-add at a time; then `epilogue`. i and k
 * count within group z.
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
  readonly a: Expr;
  readonly b: Expr;
  /** For operands that are copied before the product (packed), not read in place. */
  readonly packA: Packing;
  readonly packB: Packing;
  /** `row` runs once for each row of a tile, `element` for each of its elements. */
  readonly epilogue: { readonly row: readonly Stmt[]; readonly element: readonly Stmt[] };
}

export type Kernel = LoopKernel | MatmulKernel;
