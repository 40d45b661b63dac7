// Kernels as a CPU runs them: the grid is divided into tasks, loops run in vector lanes, operands of products are
// packed, small products and transposes are code of the device or plain loops.
import type { Expr, Var } from '../kernel/expr.ts';
import type {
  FillStmt,
  Grid,
  IfStmt,
  LoopKernel,
  MatmulKernel,
  Matrix,
  ReduceStmt,
  SetStmt,
  StoreStmt,
} from '../kernel/kernel.ts';

export type CpuStmt =
  | IfStmt<CpuStmt>
  | SetStmt
  | FillStmt
  | StoreStmt
  /** `vector`: iterations may run at the same time in the lanes of a vector. */
  | {
      readonly s: 'for';
      readonly index: Var;
      readonly extent: Expr;
      readonly vector: boolean;
      readonly body: readonly CpuStmt[];
    }
  | CpuReduce
  /**
   * A product (kernel.ts) by the device's own code, on `width` lanes: a multiple of 16 for which `to` and `b` have
   * room, with their lanes side by side in memory (columns: 1).
   */
  | {
      readonly s: 'product';
      readonly rows: Expr;
      readonly depth: Expr;
      readonly width: number;
      readonly to: Matrix;
      readonly a: Matrix;
      readonly b: Matrix;
    }
  /** A transpose of up to 16 rows (kernel.ts) by the device's own code. */
  | {
      readonly s: 'transpose';
      readonly rows: Expr;
      readonly columns: number;
      readonly from: Matrix;
      readonly to: number;
    }
  /** The element will be read soon: a device may load it into its cache. The element need not exist. */
  | { readonly s: 'prefetch'; readonly buffer: number; readonly index: Expr };

export interface CpuReduce extends ReduceStmt {
  readonly blocks: Blocks | null;
}

/**
 * The `values` of a reduction for a whole block of 16 elements. `index` is the number of the block: in terms of it, no
 * index is divided by something that differs between the elements of a block.
 */
export interface Blocks {
  readonly index: Var;
  readonly values: readonly Expr[];
}

/** The iterations of `grid` run in tasks of `grain` iterations. */
export interface CpuLoops extends Omit<LoopKernel, 'grid' | 'body'> {
  readonly grid: Pick<Grid, 'index' | 'extent'> & { readonly grain: number; readonly vector: boolean };
  readonly body: readonly CpuStmt[];
}

/** A product of float32 by the device's matrix core. */
export interface CpuMatmul extends Omit<MatmulKernel, 'epilogue'> {
  /** For operands that are copied before the product (packed), not read in place. */
  readonly packA: Packing;
  readonly packB: Packing;
  /** `b` lies in panels (graph/panels.ts): column j of row k is element j mod width of row k of panel j / width. */
  readonly panels: BPanels | null;
  readonly epilogue: { readonly row: readonly CpuStmt[]; readonly element: readonly CpuStmt[] };
}

/** The columns of a panel, and how many elements lie between the beginnings of two panels. */
export interface BPanels {
  readonly width: number;
  readonly apart: number;
}

/**
 * How an operand of a matmul is copied to the place where the matrix core reads it. `inner` is the variable of the
 * inner loop. If the operand's index divides it, runs of `length` elements need no division: in a run, with `index` =
 * inner / length, the element is `value`.
 */
export interface Packing {
  readonly inner: Var;
  readonly run: { readonly length: number; readonly index: Var; readonly value: Expr } | null;
}

export type CpuKernel = CpuLoops | CpuMatmul;
