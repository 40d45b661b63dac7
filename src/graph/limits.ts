// What lowering must know of a device: what one kernel can do there, and from which size on memory is the better
// choice. Plain data that the device's target contains (schedule/target.ts).
import type { DType } from '../base/dtype.ts';

export interface Limits {
  /** The most buffers of one kernel; null: any number. */
  readonly buffers: number | null;
  /** Whether a kernel may write a result into memory that it also reads through another buffer. */
  readonly inPlace: boolean;
  /** The dtypes that memory can hold. */
  readonly dtypes: readonly DType[];
  /** Queries or keys of attention that a kernel computes together. */
  readonly tile: number;
  /**
   * If an expert usually has at least this many rows, rows are written out once for all products that read them.
   * Otherwise each block of columns of a product gathers its rows, which is cheaper for few rows
   * (docs/measurements.md).
   */
  readonly storedRows: number;
}
