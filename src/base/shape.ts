// Tensor types: dtype and dimensions. A dimension is fixed (a number), bounded or segmented
// (docs/architecture/graph-and-ops.md): its bound is planned and decides memory, its count is an int32 tensor in device
// memory that is read at run time.
import { bytesPer, type DType } from './dtype.ts';
import { ShapeError } from './errors.ts';

/**
 * At most `bound` rows. The number of rows is in the int32 scalar that the graph's value `count` holds. `usual`, here
 * and below: the expected number of rows, if it is not the bound; the compiler weighs costs by it, so that its choices
 * do not change with the bound.
 */
export interface Bounded {
  readonly kind: 'bounded';
  readonly bound: number;
  readonly count: number;
  readonly usual?: number;
}
/**
 * The rows of all segments one after the other: segment e is rows offsets[e] to offsets[e + 1] - 1, from the int32
 * value `offsets`.
 */
export interface Segmented {
  readonly kind: 'segmented';
  readonly bound: number;
  readonly segments: number;
  readonly offsets: number;
  readonly usual?: number;
}
export type Dim = number | Bounded | Segmented;

export interface TensorType {
  readonly dtype: DType;
  readonly shape: readonly Dim[];
  /** For each dimension, the axis that ranks divide, or null; absent: no rank divides the tensor. */
  readonly axes?: readonly (Axis | null)[];
}

/**
 * What many machines divide: samples (for rows that are segmented by sample, whole samples) or experts. A dimension
 * that carries an axis has on each rank only that rank's part.
 */
export type Axis = 'batch' | 'expert';

/** A type whose first dimension carries an axis. */
export const divided = ({ dtype, shape }: TensorType, axis: Axis): TensorType => ({
  dtype,
  shape,
  ...(shape.length > 0 && { axes: [axis, ...shape.slice(1).map(() => null)] }),
});

/** The size of a fixed dimension, or the bound. */
export const boundOf = (dim: Dim): number => (typeof dim === 'number' ? dim : dim.bound);

export const sizes = (shape: readonly Dim[]): number[] => shape.map(boundOf);

export const elements = (shape: readonly Dim[]): number => shape.reduce<number>((n, d) => n * boundOf(d), 1);

/** The number of elements, with counted dimensions at their usual size. */
export const usualElements = (shape: readonly Dim[]): number =>
  shape.reduce<number>((n, d) => n * (typeof d === 'number' ? d : (d.usual ?? d.bound)), 1);

export const byteSize = (type: TensorType): number => elements(type.shape) * bytesPer(type.dtype);

/** Whether a dimension has rows in segments. */
export const isSegmented = (dim: Dim): dim is Segmented => typeof dim !== 'number' && dim.kind === 'segmented';

/** Only the outermost dimension may vary at run time. */
export const isDynamic = (shape: readonly Dim[]): boolean => shape.some((d) => typeof d !== 'number');

export function sameDim(a: Dim, b: Dim): boolean {
  if (typeof a === 'number' || typeof b === 'number') return a === b;
  if (a.kind === 'bounded') return b.kind === 'bounded' && a.bound === b.bound && a.count === b.count;
  return b.kind === 'segmented' && a.bound === b.bound && a.offsets === b.offsets;
}

export const sameShape = (a: readonly Dim[], b: readonly Dim[]): boolean =>
  a.length === b.length && a.every((d, i) => sameDim(d, b[i]));

/** NumPy's rule: shapes are aligned at the last dimension, and a dimension of size 1 is repeated. */
export function broadcastShapes(op: string, a: readonly Dim[], b: readonly Dim[]): readonly Dim[] {
  if (a.length === 0 || sameShape(a, b)) return b;
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, i) => {
    const x = a[i - rank + a.length] ?? 1,
      y = b[i - rank + b.length] ?? 1;
    if (sameDim(x, y) || y === 1) return x;
    if (x === 1) return y;
    throw new ShapeError(
      `${op}: shapes ${showShape(a)} and ${showShape(b)} do not broadcast at dimension ${i}`,
      'dimensions must be equal, or one of them 1',
    );
  });
}

export const showDim = (d: Dim): string =>
  typeof d === 'number'
    ? `${d}`
    : d.kind === 'bounded'
      ? `<=${d.bound}:%${d.count}`
      : `<=${d.bound}/${d.segments}:%${d.offsets}`;

export const showShape = (shape: readonly Dim[]): string => `[${shape.map(showDim).join(', ')}]`;

export const showType = ({ dtype, shape }: TensorType): string => `${dtype}${showShape(shape)}`;

/** The type with axes: a dimension that carries one ends in "@" and its name: float32[8@batch, 16]. */
export const showDivided = ({ dtype, shape, axes = [] }: TensorType): string =>
  `${dtype}[${shape.map((d, i) => `${showDim(d)}${axes[i] ? `@${axes[i]}` : ''}`).join(', ')}]`;

/** The largest number of elements of a tensor: kernels count rows, indices and elements in 32 bits. */
const MOST_ELEMENTS = 2 ** 31 - 1;

/** Gives the type; throws ShapeError for a size that is no whole number, or a tensor with too many elements. */
export function checkSize(name: string, type: TensorType): TensorType {
  const count = elements(type.shape);
  if (type.shape.some((d) => !(Number.isSafeInteger(boundOf(d)) && boundOf(d) >= 0)))
    throw new ShapeError(
      `${name}: ${showShape(type.shape)} is no valid shape`,
      'sizes are whole numbers of at least 0',
    );
  if (count <= MOST_ELEMENTS) return type;
  throw new ShapeError(
    `${name}: a tensor ${showType(type)} has ${count} elements, more than ${MOST_ELEMENTS}`,
    'smaller sizes, or several tensors',
  );
}

/** Row-major strides in elements, with counted dimensions at their bound. */
export function stridesOf(shape: readonly Dim[]): number[] {
  const strides = new Array<number>(shape.length);
  let step = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = step;
    if (i > 0) step *= boundOf(shape[i]);
  }
  return strides;
}
