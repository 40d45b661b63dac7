// The value of a tensor on the host: what datasets give, sessions read and return, and checkpoints hold.
import { arrayKind, DTYPES, hostArray, isFloat, type DType, type TypedArray } from './dtype.ts';
import { ShapeError, UserError } from './errors.ts';
import { isHalf, toHalf } from './half.ts';

export interface HostTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: TypedArray; // row-major, length = product of shape
}

/** The samples of one step: inputs of the model, and targets of the loss. The first dimension of both is the batch. */
export interface Batch {
  readonly x: HostTensor; // text: int32 [batch, context]; digits: float32 [batch, 784]
  readonly y: HostTensor; // text: int32 [batch, context]; digits: int32 [batch]
  /** Stable ids of the samples along the first dimension, where the dataset has them. */
  readonly ids?: Int32Array;
  /**
   * int32 [batch]: how many elements of each sequence are there, for x and y of [batch, time]. The elements after them
   * are padding: they are not computed, count in no loss and no mean, and outputs are 0 there. Only for models that say
   * `sequences`.
   */
  readonly lengths?: Int32Array;
}

/**
 * The forms in which the values of a tensor can be given. bigint only for integers; bool as true and false, or as 0 and
 * 1.
 */
export type HostValues =
  | TypedArray
  | Int8Array
  | Int16Array
  | Uint8ClampedArray
  | BigInt64Array
  | BigUint64Array
  | readonly (number | bigint | boolean)[];

/**
 * A tensor of the host. A typed array of the dtype's own kind is taken as it is, not copied: Float64Array,
 * Float32Array, Int32Array, Uint32Array, Uint8Array for bool, and Uint16Array for bfloat16 and float16, whose bits it
 * holds. Other values are converted, and what would change is refused: an integer must be whole and within its range, a
 * bool 0 or 1, and a finite number must not be beyond the largest float. Floats are rounded to the nearest. Throws
 * UserError (ShapeError for a wrong number of values) that names the first value that does not fit.
 */
export function hostTensor(dtype: DType, shape: readonly number[], values: HostValues): HostTensor {
  if (!DTYPES.includes(dtype))
    throw new UserError(
      `no dtype named ${String(dtype)}`,
      `one of ${DTYPES.join(', ')}; values of others are converted: hostTensor('int32', shape, values)`,
    );
  const length = sizeOf(dtype, shape),
    given: unknown = values;
  if (!Array.isArray(given) && !(ArrayBuffer.isView(given) && 'length' in given)) {
    throw new UserError(
      `the values of ${an(dtype)} tensor must be a list of numbers or a typed array, got ` + `${nameOf(given)}`,
    );
  }
  if (values.length !== length) {
    if (Array.isArray(values[0])) checkValues(dtype, values);
    throw new ShapeError(
      `${an(dtype)} tensor of shape [${shape.join(', ')}] has ${length} elements, got ${values.length}`,
    );
  }
  if (values.constructor === arrayKind(dtype)) {
    if (dtype === 'bool') checkValues(dtype, values);
    return { dtype, shape, data: values };
  }
  if (isFloat(dtype) && values instanceof Uint16Array) {
    throw new UserError(
      `the values of ${an(dtype)} tensor are a Uint16Array: the bits of 16-bit floats, or whole numbers?`,
      `bits: convert(hostTensor('bfloat16', shape, bits), '${dtype}'); whole numbers: Array.from(values)`,
    );
  }
  checkValues(dtype, values);
  if (isHalf(dtype)) return { dtype, shape, data: toHalf(dtype, Array.from(values as ArrayLike<number>, Number)) };
  const data = hostArray(dtype, length);
  for (let i = 0; i < length; i++) data[i] = Number(values[i]);
  return { dtype, shape, data };
}

/** The number of elements of a shape; throws UserError if it is no valid shape. */
function sizeOf(dtype: DType, shape: readonly number[]): number {
  const dims: unknown = shape;
  const bad = !Array.isArray(dims) || !dims.every((d) => Number.isSafeInteger(d) && d >= 0),
    length = bad ? NaN : shape.reduce((n, d) => n * d, 1);
  if (bad || !Number.isSafeInteger(length)) {
    throw new ShapeError(
      `${Array.isArray(dims) ? `[${dims.map(String).join(', ')}]` : nameOf(dims)} is no shape of ${an(dtype)} tensor`,
      'a list of whole numbers of at least 0, whose product is a number of elements',
    );
  }
  return length;
}

/** Throws for the first value that the dtype does not have. */
function checkValues(dtype: DType, values: HostValues): void {
  const most = LARGEST[dtype],
    least = isFloat(dtype) ? -most : dtype === 'int32' ? -most - 1 : 0,
    whole = !isFloat(dtype);
  for (let i = 0; i < values.length; i++) {
    const v: unknown = values[i];
    if (typeof v === 'number') {
      if (whole ? Number.isInteger(v) && v >= least && v <= most : (v >= least && v <= most) || !Number.isFinite(v))
        continue;
    } else if (typeof v === 'bigint' ? whole && v >= least && v <= most : typeof v === 'boolean' && dtype === 'bool')
      continue;
    const what =
      typeof v === 'number' || typeof v === 'boolean'
        ? `${v}`
        : typeof v === 'bigint'
          ? `${v}n`
          : typeof v === 'string'
            ? JSON.stringify(v)
            : Array.isArray(v)
              ? 'a list'
              : nameOf(v);
    throw new UserError(
      `element ${i} of ${an(dtype)} tensor is ${what}`,
      Array.isArray(v)
        ? 'values lie in one list, row by row: rows.flat()'
        : dtype === 'bool'
          ? 'true and false, or 1 and 0'
          : whole
            ? `whole numbers from ${least} to ${most}`
            : typeof v === 'bigint'
              ? 'floats are numbers: Number(value)'
              : `numbers from ${least} to ${most}, infinities and NaN`,
    );
  }
}

const an = (dtype: DType): string => `${dtype === 'int32' ? 'an' : 'a'} ${dtype}`;

/** The largest number of each dtype; for floats, the largest that is not rounded to infinity. */
const LARGEST: Readonly<Record<DType, number>> = {
  float64: Number.MAX_VALUE,
  float32: below(2 ** 128 - 2 ** 103),
  bfloat16: below(2 ** 128 - 2 ** 119),
  float16: below(65520),
  int32: 0x7fffffff,
  uint32: 0xffffffff,
  bool: 1,
};

/** The float64 before x, which is not a power of 2. */
function below(x: number): number {
  return x - 2 ** (Math.floor(Math.log2(x)) - 52);
}

const nameOf = (v: unknown): string =>
  v === null
    ? 'null'
    : typeof v === 'object'
      ? ((v as { constructor?: { name: string } }).constructor?.name ?? 'an object')
      : typeof v;

/**
 * Checks a batch that may come from untyped code: x and y are there, their dtype, shape and data agree, they are not
 * empty, and there is one id for each sample.
 */
export function checkBatch(batch: Batch): void {
  for (const name of ['x', 'y'] as const) {
    const given: unknown = (batch as Partial<Batch> | undefined)?.[name],
      { dtype, shape, data } = (given ?? {}) as Partial<HostTensor>;
    if (!dtype || !Array.isArray(shape) || !ArrayBuffer.isView(data)) {
      throw new UserError(
        `the batch's ${name} must be a tensor of the host { dtype, shape, data }, got ` +
          `${given === null ? 'null' : Array.isArray(given) ? 'a list' : typeof given}`,
        "hostTensor('float32', [rows, columns], values)",
      );
    }
    if (hostTensor(dtype, shape, data).data !== data)
      throw new UserError(
        `the batch's ${name} is ${dtype}, its data a ${data.constructor.name}`,
        'hostTensor(dtype, shape, values) converts',
      );
    if (shape[0] === 0) throw new UserError(`the batch's ${name} is empty: ${dtype}[${shape.join(', ')}]`);
  }
  const { ids, x } = batch;
  checkLengths(batch);
  if (ids === undefined) return;
  if (!(ids instanceof Int32Array) || ids.length !== x.shape[0])
    throw new UserError(
      `the batch's ids must be an Int32Array of ${x.shape[0]}, one for each sample`,
      'leave them out where samples have none',
    );
  const bad = ids.find((id) => id < 0 || id === 2 ** 31 - 1);
  if (bad !== undefined) throw new UserError(`the batch's ids must be from 0 to ${2 ** 31 - 2}, got ${bad}`);
}

/** Throws UserError for lengths that do not fit x [batch, time], or that leave nothing. */
function checkLengths({ x: { shape }, lengths }: Batch): void {
  if (lengths === undefined) return;
  const [samples, time = 0] = shape;
  if (!(lengths instanceof Int32Array) || lengths.length !== samples)
    throw new UserError(
      `the batch's lengths must be an Int32Array of ${samples}, one for each sequence`,
      'leave them out where all sequences have the length of x',
    );
  const bad = lengths.findIndex((length) => length < 0 || length > time);
  if (bad >= 0)
    throw new UserError(`length ${bad} of the batch is ${lengths[bad]}, the sequences of x have ${time} elements`);
  if (lengths.every((length) => length === 0)) throw new UserError("all of the batch's lengths are 0");
}
