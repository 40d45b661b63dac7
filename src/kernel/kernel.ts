// A kernel: loops over scalar expressions (form 'loops'), or the one routine with a template of its own, matmul. Plain
// data, no addresses, no bounds: two layers with the same shapes share one kernel.
import type { DType } from '../base/dtype.ts';
import type { Expr, ReduceOp, Scalar, Var } from './expr.ts';

/** A tensor in device memory. Storage type only: kernels compute in float32 (float64 for float64). */
export interface Buffer {
  readonly dtype: DType;
  readonly access: 'read' | 'write' | 'update';
}

/** A scalar (length 0) or array of the kernel's own, private to a task. */
export interface Local {
  readonly dtype: Scalar;
  readonly length: number;
}

export type Stmt =
  /** `vector`: iterations are independent and may run side by side in lanes. */
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
  /** Reductions over one range in one pass: 16 interleaved partial results, chunks of 4096, joined in a fixed tree. */
  | {
      readonly s: 'reduce';
      readonly index: Var;
      readonly extent: Expr;
      readonly targets: readonly ReduceTarget[];
      readonly blocks: Blocks | null;
    }
  | ProductStmt
  | TransposeStmt
  /** The element will be read soon: devices that can bring it nearer meanwhile. It need not exist. */
  | { readonly s: 'prefetch'; readonly buffer: number; readonly index: Expr };
export interface ReduceTarget {
  readonly local: number;
  readonly op: ReduceOp;
  readonly value: Expr;
}

/**
 * A reduction's `values` along a whole block of 16: with `index` the block's number they divide no index by what its
 * elements differ in.
 */
export interface Blocks {
  readonly index: Var;
  readonly values: readonly Expr[];
}

/**
 * A small product inside a kernel: to(r, l) becomes itself plus, over k ascending, a(r, k) * b(k, l), one fused
 * multiply-add at a time, for r < rows, k < depth, l < lanes. `plain` says it in other statements. A device with a
 * matrix core may run that instead, on `width` lanes, a multiple of 16 for which `to` and `b` have room (0: they do
 * not); they lie side by side in memory (columns: 1).
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
 * Rows copied to columns: element (r, c) of `from` to element r + 16 c of an array, for r < rows <= 16, c < columns;
 * nobody looks at the other elements. `plain` says it in other statements; a device that has something better for it
 * may run that if `core` is true.
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

/** In an array of the kernel's own, or in a buffer: element (r, c) is at index at + r * rows + c * columns. */
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
  /** How many run-time integers it takes. */
  readonly ints: number;
}

/** `grid` iterations run in parallel, `grain` of them to a task; each owns what it stores. */
export interface LoopKernel extends KernelBase {
  readonly form: 'loops';
  readonly grid: { readonly index: Var; readonly extent: Expr; readonly grain: number; readonly vector: boolean };
  readonly body: readonly Stmt[];
}

/**
 * A size that is fixed; `times` what element `at` of an int32 buffer holds; or one per group, given by an int32[groups
 * + 1] buffer of offsets.
 */
export type Extent =
  number | { readonly count: number; readonly at: number; readonly times: number } | { readonly offsets: number };

/**
 * How an operand of a matmul is copied to where the matrix core reads it: `inner` is the variable of the inner loop. An
 * index with quotients and remainders of it has none along runs of `length`: there, with `index` = inner / length, the
 * element is `value`.
 */
export interface Packing {
  readonly inner: Var;
  readonly run: { readonly length: number; readonly index: Var; readonly value: Expr } | null;
}

/** sum(z,i,j) = over k ascending of a(z,i,k) * b(z,k,j), one FMA at a time; then `epilogue`. i and k count
 * within the group z. */
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
  /** For operands that are not read in place. */
  readonly packA: Packing;
  readonly packB: Packing;
  /** `row` runs once for each row of a tile, `element` for each element of it. */
  readonly epilogue: { readonly row: readonly Stmt[]; readonly element: readonly Stmt[] };
}

export type Kernel = LoopKernel | MatmulKernel;
