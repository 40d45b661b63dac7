// Checks that all trained values are finite, before a checkpoint is accepted. In: the tensors of a checkpoint; out: the
// same tensors, checked as they are written.
import type { TypedArray } from '../base/dtype.ts';
import { isHalf } from '../base/half.ts';
import type { CheckpointContent } from '../io/checkpoint.ts';
import type { TensorSource } from '../io/safetensors-bytes.ts';

/** Thrown for a tensor with values that are not finite. */
export class NotFiniteError extends Error {
  constructor(name: string, count: number, of: number) {
    super(`${count} of ${of} values of ${name} are not finite`);
  }
}

/**
 * Content whose writing fails with NotFiniteError if a tensor that `checked` names is not finite. Parameters that steps
 * only read are not checked: they may hold infinities.
 */
export function finiteContent(
  { tensors, meta }: CheckpointContent,
  checked: (name: string) => boolean,
): CheckpointContent {
  return {
    meta,
    tensors: tensors.map((tensor) =>
      checked(tensor.name) ? { ...tensor, data: async () => finite(tensor, await tensor.data()) } : tensor,
    ),
  };
}

/** The first tensor that is not finite; null: all are. */
export async function firstNotFinite(
  { tensors }: CheckpointContent,
  checked: (name: string) => boolean,
): Promise<NotFiniteError | null> {
  for (const tensor of tensors) {
    if (!checked(tensor.name)) continue;
    const count = notFinite(tensor, await tensor.data());
    if (count > 0) return new NotFiniteError(tensor.name, count, size(tensor));
  }
  return null;
}

function finite(tensor: TensorSource, data: TypedArray): TypedArray {
  const count = notFinite(tensor, data);
  if (count > 0) throw new NotFiniteError(tensor.name, count, size(tensor));
  return data;
}

const size = ({ shape }: TensorSource): number => shape.reduce((n, d) => n * d, 1);

function notFinite({ dtype }: TensorSource, data: TypedArray): number {
  let count = 0;
  if (isHalf(dtype)) {
    const exponent = dtype === 'bfloat16' ? 0x7f80 : 0x7c00;
    for (const bits of data) if ((bits & exponent) === exponent) count++;
  } else if (data instanceof Float32Array || data instanceof Float64Array) {
    // x * 0 is 0 only for finite x, so one sum checks all values. Values are counted only if that sum is not 0.
    let sum = 0;
    for (let i = 0; i < data.length; i++) sum += data[i] * 0;
    if (sum !== 0) for (const x of data) if (!Number.isFinite(x)) count++;
  }
  return count;
}
