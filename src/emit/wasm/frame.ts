// The surroundings of the code of one function: buffers, integers and locals.
import type { Expr } from '../../kernel/expr.ts';
import type { Buffer, Local } from '../../kernel/kernel.ts';
import type { Func } from './binary.ts';

/** What the expressions of one function refer to. */
export interface Frame {
  readonly f: Func;
  readonly fused: boolean;
  readonly buffers: readonly Buffer[];
  /** WebAssembly locals with the buffers' addresses and the run-time integers. */
  readonly addresses: readonly number[];
  readonly ints: readonly number[];
  readonly locals: readonly Local[];
  /** For a scalar its WebAssembly local; for an array its first byte in scratch memory. */
  readonly places: readonly number[];
  readonly scratch: number;
  readonly vars: Map<Expr, number>;
  /** The number of an imported function on float64. */
  imported(name: string): number;
}
