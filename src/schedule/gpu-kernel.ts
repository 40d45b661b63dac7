// Kernels as a GPU runs them: blocks of threads. Every thread of every block runs the same statements; `block` and
// `thread` tell it which part is its own. The threads of a block share arrays, and wait for each other at barriers.
import type { Expr, Var } from '../kernel/expr.ts';
import type { Buffer, IfStmt, Local, SetStmt, StoreStmt } from '../kernel/kernel.ts';

export type GpuStmt = IfStmt<GpuStmt> | SetStmt | StoreStmt | GpuFor | BarrierStmt;

/** index = from, from + step, ... below `below`. Both limits are computed once, before the first iteration. */
export interface GpuFor {
  readonly s: 'for';
  readonly index: Var;
  readonly from: Expr;
  readonly below: Expr;
  readonly step: number;
  readonly body: readonly GpuStmt[];
}

/** All threads of the block come here before one goes on; they then see what the others have written. */
export interface BarrierStmt {
  readonly s: 'barrier';
}

/** shared: one for all threads of a block (a scalar is an array of one element). Otherwise each thread has its own. */
export interface GpuLocal extends Local {
  readonly shared: boolean;
}

export interface GpuKernel {
  readonly form: 'threads';
  readonly buffers: readonly Buffer[];
  readonly locals: readonly GpuLocal[];
  /** How many run-time integers the kernel takes. */
  readonly ints: number;
  /** How many blocks start, and how many threads each has. Work beyond that is done in turns by the same blocks. */
  readonly blocks: number;
  readonly threads: number;
  readonly block: Var;
  readonly thread: Var;
  readonly body: readonly GpuStmt[];
}
