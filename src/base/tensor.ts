// A tensor's value on the host: what datasets give, what sessions read and return, what checkpoints hold.
import { DTYPES, hostArray, type DType, type TypedArray } from './dtype.ts';
import { ShapeError, UserError } from './errors.ts';

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
  if (!DTYPES.includes(dtype)) throw new UserError(`no dtype named ${String(dtype)}`, `one of ${DTYPES.join(', ')}`);
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

/** Checks what came from outside TypeScript: that x and y are there, with dtype, shape and data that agree, and samples in them; ids for each. */
export function checkBatch(batch: Batch): void {
  for (const name of ['x', 'y'] as const) {
    const given: unknown = (batch as Partial<Batch> | undefined)?.[name], { dtype, shape, data } = (given ?? {}) as Partial<HostTensor>;
    if (!dtype || !Array.isArray(shape) || !ArrayBuffer.isView(data)) {
      throw new UserError(`the batch's ${name} must be a tensor of the host { dtype, shape, data }, got ${given === null ? 'null' : Array.isArray(given) ? 'a list' : typeof given}`,
        "hostTensor('float32', [rows, columns], values)");
    }
    if (hostTensor(dtype, shape, data).data !== data) throw new UserError(`the batch's ${name} is ${dtype}, its data a ${data.constructor.name}`, 'hostTensor(dtype, shape, values) converts');
    if (shape[0] === 0) throw new UserError(`the batch's ${name} is empty: ${dtype}[${shape.join(', ')}]`);
  }
  const { ids, x } = batch;
  if (ids === undefined) return;
  if (!(ids instanceof Int32Array) || ids.length !== x.shape[0]) throw new UserError(`the batch's ids must be an Int32Array of ${x.shape[0]}, one for each sample`, 'leave them out where samples have none');
  const bad = ids.find((id) => id < 0 || id === 2 ** 31 - 1);
  if (bad !== undefined) throw new UserError(`the batch's ids must be from 0 to ${2 ** 31 - 2}, got ${bad}`);
}
