// A tensor's value on the host: what datasets give, what sessions read and return, what checkpoints hold.
import { hostArray, type DType, type TypedArray } from './dtype.ts';
import { ShapeError } from './errors.ts';

export interface HostTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: TypedArray; // row-major, length = product of shape
}

/** One step's samples: what the model gets, what the loss compares with. Both have the batch as their first dimension. */
export interface Batch {
  readonly x: HostTensor; // text: int32 [batch, context]; digits: float32 [batch, 784]
  readonly y: HostTensor; // text: int32 [batch, context]; digits: int32 [batch]
  /** Stable ids of the samples along the first dimension, where the dataset has them. */
  readonly ids?: Int32Array;
}

/** Checks the length; takes a typed array as it is and converts a plain list. */
export function hostTensor(dtype: DType, shape: readonly number[], values: TypedArray | readonly number[]): HostTensor {
  const length = shape.reduce((n, d) => n * d, 1);
  if (values.length !== length) {
    throw new ShapeError(`a ${dtype} tensor of shape [${shape.join(', ')}] has ${length} elements, got ${values.length}`);
  }
  const proto = hostArray(dtype, 0);
  if (!Array.isArray(values) && values.constructor === proto.constructor) return { dtype, shape, data: values as TypedArray };
  const data = hostArray(dtype, length);
  data.set(values);
  return { dtype, shape, data };
}
