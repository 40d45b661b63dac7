// What lowering must know of a device: what one kernel can do there, and from which size on memory is the better
// choice. The device's target contains it (schedule/target.ts).
import type { DType, TypedArray } from '../base/dtype.ts';
import type { TensorType } from '../base/shape.ts';
import type { Expr, Exprs } from '../kernel/expr.ts';
import type { Graph } from './graph.ts';
import type { Layout } from './state.ts';

export interface Limits {
  /** The most buffers of one kernel; null: any number. */
  readonly buffers: number | null;
  /** Whether a kernel may write a result into memory that it also reads through another buffer. */
  readonly inPlace: boolean;
  /** The dtypes that memory can hold. */
  readonly dtypes: readonly DType[];
  /** The layout of weights that products only read, on devices whose products read it faster; null: rows. */
  readonly panels: Panels | null;
  /** Queries or keys of attention that a kernel computes together. */
  readonly tile: number;
  /**
   * If an expert usually has at least this many rows, rows are written out once for all products that read them.
   * Otherwise each block of columns of a product gathers its rows, which is cheaper for few rows
   * (docs/measurements.md).
   */
  readonly storedRows: number;
}

/** The layout `panels` (passes/panels.ts): panels of `width` columns, as many as the inner loop of products takes. */
export interface Panels {
  readonly width: number;
  /** Bytes of a state. */
  bytes(type: TensorType): number;
  /** Where the element at a multi-index lies. */
  index(e: Exprs, type: TensorType, index: readonly Expr[]): Expr;
  /**
   * What to write, and from which element of the memory on, so that the elements of a state from `at` on become `data`.
   * The next part may be in the same array.
   */
  writes(type: TensorType, at: number, data: TypedArray): Iterable<{ readonly at: number; readonly data: TypedArray }>;
  /**
   * What to read, and from which element of the memory on, for `count` elements of a state; then `value` gives them.
   */
  reading(type: TensorType, at: number, count: number): Reading;
  /** Decides which states of a program lie in panels. `decided`: of earlier programs, by name; this one's are added. */
  place(graph: Graph, decided: Map<string, Layout>): Graph;
}

export interface Reading {
  readonly at: number;
  readonly into: TypedArray;
  value(): TypedArray;
}
