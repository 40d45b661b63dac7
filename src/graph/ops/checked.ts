// Checks that every op makes when a graph is built, beside its own shape rule: dtypes that it does not compute,
// settings that are no numbers, results that are too large.
import { isHalf } from '../../base/half.ts';
import { isFloat, type DType } from '../../base/dtype.ts';
import { ShapeError } from '../../base/errors.ts';
import { checkSize, showShape, showType, type TensorType } from '../../base/shape.ts';
import type { Attrs } from '../graph.ts';
import type { Op, Takes } from '../op.ts';

const FITS: Readonly<Record<Takes, (dtype: DType) => boolean>> = {
  floats: (d) => isFloat(d) && !isHalf(d),
  numbers: (d) => d !== 'bool' && !isHalf(d),
  any: (d) => !isHalf(d),
  stored: () => true,
};
const NAMES: Readonly<Record<Takes, string>> = {
  floats: 'floats (float32 or float64)',
  numbers: 'numbers (float32, float64, int32 or uint32)',
  any: 'float32, float64, int32, uint32 or bool',
  stored: 'any dtype',
};

/** The op with these checks in its shape rule. */
export function checked<A extends Attrs>(op: Op<A>): Op<A> {
  const { name, takes = [] } = op;
  return {
    ...op,
    infer(inputs, attrs, ids) {
      // Plain loops: every node of a graph comes here several times.
      for (let i = 0; i < inputs.length; i++) {
        const wanted = takes[i] ?? 'any';
        if (!FITS[wanted](inputs[i].dtype)) throw misfit(name, wanted, inputs[i], i);
      }
      if (name !== 'constant') for (const key in attrs) checkNumber(name, key, attrs[key], inputs);
      const types = op.infer(inputs, attrs, ids);
      for (const type of types) checkSize(name, type);
      return types;
    },
  };
}

function misfit(op: string, wanted: Takes, got: TensorType, at: number): ShapeError {
  return new ShapeError(
    `${op}: needs ${NAMES[wanted]}, got ${showType(got)}${at > 0 ? ` as input ${at + 1}` : ''}`,
    hintFor(got.dtype, wanted),
  );
}

function checkNumber(op: string, key: string, value: Attrs[string], inputs: readonly TensorType[]): void {
  if (typeof value !== 'number') return;
  if (Number.isNaN(value)) throw new ShapeError(`${op}: ${key} is NaN`);
  if (Number.isFinite(value) && !Number.isFinite(Math.fround(value)) && inputs.some((t) => t.dtype === 'float32'))
    throw new ShapeError(`${op}: ${key} is ${value}, which is no finite float32`);
}

const hintFor = (dtype: DType, wanted: Takes): string =>
  isHalf(dtype)
    ? `nothing is computed in ${dtype}: cast(x, 'float32') first`
    : `cast(x, '${wanted === 'floats' || dtype !== 'bool' ? 'float32' : 'int32'}') first`;

/** The error for operands of different dtypes. */
export function unlike(name: string, ...dtypes: readonly DType[]): ShapeError {
  const floats = dtypes.every((d) => d === 'float64' || d === 'float32');
  return new ShapeError(
    `${name}: dtypes differ (${dtypes.join(', ')})`,
    floats
      ? "nn.setDtype(model, 'float64') makes a model one of float64; else cast(x, 'float32'), convert(tensor, " +
          "'float32')"
      : 'use cast',
  );
}

/** Throws if x does not have this axis. */
export function checkAxis(op: string, x: TensorType, axis: number): void {
  if (!Number.isInteger(axis) || axis < 0 || axis >= x.shape.length)
    throw new ShapeError(`${op}: ${showShape(x.shape)} has no dimension ${String(axis)}`);
}

/** Throws if axes are not ascending axes of x, each once. */
export function checkAxes(op: string, x: TensorType, axes: readonly number[]): void {
  for (const [i, axis] of axes.entries()) {
    checkAxis(op, x, axis);
    if (i > 0 && axis <= axes[i - 1]) throw new ShapeError(`${op}: axes [${axes.join(', ')}] are not ascending`);
  }
}

/** Throws if `key`, which distinguishes the random numbers of an op, is not a uint32. */
export function checkKey(op: string, key: number): void {
  if (!Number.isInteger(key) || key < 0 || key > 0xffffffff)
    throw new ShapeError(`${op}: key must be a whole number from 0 to 4294967295, got ${String(key)}`);
}
