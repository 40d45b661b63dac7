// Converts between a tensor's bytes in a safetensors file and a HostTensor. Types that DynaMoE does not have are
// converted: I64 to int32 and U64 to uint32 (a value out of range is an error), I8, U8, I16 and U16 to int32. F4, F6,
// F8, C64 and types of later versions of the format are refused, by name, when their tensor is read.
import { bytesPer, hostArray, type DType, type TypedArray } from '../base/dtype.ts';
import { UserError } from '../base/errors.ts';
import { bytesOf } from '../base/same.ts';
import type { HostTensor } from '../base/tensor.ts';
import type { FileDType, TensorEntry, TensorSpec } from './safetensors.ts';

type Reader = (view: DataView, at: number) => number | bigint;
interface Rule {
  readonly dtype: DType;
  readonly size: number;
  readonly get?: Reader;
} // without `get`: the same bytes

const RULES: Partial<Record<FileDType, Rule>> = {
  F64: { dtype: 'float64', size: 8 },
  F32: { dtype: 'float32', size: 4 },
  BF16: { dtype: 'bfloat16', size: 2 },
  F16: { dtype: 'float16', size: 2 },
  I32: { dtype: 'int32', size: 4 },
  U32: { dtype: 'uint32', size: 4 },
  BOOL: { dtype: 'bool', size: 1 },
  I64: { dtype: 'int32', size: 8, get: (v, at) => v.getBigInt64(at, true) },
  U64: { dtype: 'uint32', size: 8, get: (v, at) => v.getBigUint64(at, true) },
  I16: { dtype: 'int32', size: 2, get: (v, at) => v.getInt16(at, true) },
  U16: { dtype: 'int32', size: 2, get: (v, at) => v.getUint16(at, true) },
  I8: { dtype: 'int32', size: 1, get: (v, at) => v.getInt8(at) },
  U8: { dtype: 'int32', size: 1, get: (v, at) => v.getUint8(at) },
};

/** The bytes of a tensor to write. Throws if the length or the element size is wrong, which is a bug in the caller. */
export function checkedBytes(spec: TensorSpec, data: TypedArray): Uint8Array {
  const length = spec.shape.reduce((n, d) => n * d, 1);
  if (data.length !== length || data.BYTES_PER_ELEMENT !== bytesPer(spec.dtype)) {
    throw new Error(
      `tensor ${spec.name}, ${spec.dtype} [${spec.shape.join(', ')}], needs ${length} elements of ` +
        `${bytesPer(spec.dtype)} bytes, got ${data.length} of ${data.BYTES_PER_ELEMENT}`,
    );
  }
  return bytesOf(data);
}

/**
 * Reads a tensor. `fill` writes the entry's bytes into the array that it is given; if no conversion is needed, this is
 * the tensor's own array.
 */
export async function readData(
  entry: TensorEntry,
  where: string,
  fill: (into: Uint8Array) => Promise<void>,
): Promise<HostTensor> {
  const { dtype, size, get } = ruleOf(entry, where);
  const length = (entry.end - entry.begin) / size;
  const data = allocate(dtype, length, entry, where);
  if (get === undefined) {
    await fill(bytesOf(data));
    const wrong = dtype === 'bool' ? data.findIndex((v) => v > 1) : -1;
    if (wrong >= 0) throw unfit(entry, where, wrong, data[wrong], dtype);
  } else {
    const raw = new Uint8Array(entry.end - entry.begin);
    await fill(raw);
    const view = new DataView(raw.buffer);
    for (let i = 0; i < length; i++) {
      const value = get(view, i * size);
      data[i] = Number(value);
      if (BigInt(data[i]) !== BigInt(value)) throw unfit(entry, where, i, value, dtype);
    }
  }
  return { dtype, shape: entry.shape, data };
}

function ruleOf(entry: TensorEntry, where: string): Rule {
  const rule = Object.hasOwn(RULES, entry.dtype) ? RULES[entry.dtype as FileDType] : undefined;
  if (rule !== undefined) return rule;
  throw new UserError(
    `${where}: tensor ${JSON.stringify(entry.name)} is ${entry.dtype}, which cannot be read`,
    `convert it to one of ${Object.keys(RULES).join(', ')}`,
  );
}

function allocate(dtype: DType, length: number, entry: TensorEntry, where: string): TypedArray {
  try {
    return hostArray(dtype, length);
  } catch (error) {
    const bytes = length * bytesPer(dtype);
    const name = JSON.stringify(entry.name);
    throw new UserError(
      `${where}: tensor ${name} needs ${bytes} bytes of memory, more than there is`,
      undefined,
      error,
    );
  }
}

const unfit = (
  { name, dtype: from }: TensorEntry,
  where: string,
  index: number,
  value: number | bigint,
  dtype: DType,
): UserError =>
  new UserError(
    `${where}: tensor ${JSON.stringify(name)} is ${from}, which is read as ${dtype}; its element ${index} is ${value}`,
    'leave it out, or convert it with the program that wrote it',
  );
