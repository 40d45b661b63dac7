// Other arrangements of elements, made of reshape, slice, concat, transpose and broadcasting.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, showShape } from '../../../base/shape.ts';
import { emit1, full, scalar, type Tensor } from '../../tensor.ts';
import { concat } from './concat.ts';
import { pad } from './pad.ts';
import { reshape } from './reshape.ts';
import { slice } from './slice.ts';
import { transpose } from './transpose.ts';

/** `axis` counted from the start. `room`: how many places more than x has dimensions are allowed. */
function axisOf(op: string, x: Tensor, axis: number, room = 0): number {
  const rank = x.shape.length + room,
    at = axis < 0 ? axis + rank : axis;
  if (!Number.isInteger(at) || at < 0 || at >= rank)
    throw new ShapeError(`${op}: axis ${axis} does not fit ${showShape(x.shape)}`);
  return at;
}

/** x with `axis` last. */
export function lastAxis(op: string, x: Tensor, axis: number): Tensor {
  const at = axisOf(op, x, axis),
    order = x.shape.map((_, i) => i);
  return at === order.length - 1 ? x : transpose(x, [...order.filter((i) => i !== at), at]);
}

/** x with its last axis at `axis`. */
export function fromLast(x: Tensor, axis: number): Tensor {
  const rank = x.shape.length,
    at = axis < 0 ? axis + rank : axis,
    order = x.shape.map((_, i) => i).slice(0, -1);
  return at === rank - 1 ? x : transpose(x, [...order.slice(0, at), rank - 1, ...order.slice(at)]);
}

/** x with a dimension of 1 before `axis` (-1: at the end). */
export function unsqueeze(x: Tensor, axis: number): Tensor {
  const at = axisOf('unsqueeze', x, axis, 1),
    dims = x.shape.map(boundOf);
  return reshape(x, [...dims.slice(0, at), 1, ...dims.slice(at)]);
}

/** x without `axes` (all dimensions of 1 by default), which must be of size 1. */
export function squeeze(x: Tensor, axes?: readonly number[]): Tensor {
  const gone = axes ? axes.map((a) => axisOf('squeeze', x, a)) : x.shape.flatMap((d, i) => (d === 1 ? [i] : []));
  for (const a of gone)
    if (x.shape[a] !== 1) throw new ShapeError(`squeeze: dimension ${a} of ${showShape(x.shape)} is not 1`);
  return reshape(
    x,
    x.shape.map(boundOf).filter((_, i) => !gone.includes(i)),
  );
}

/**
 * x stretched to `shape` by NumPy's rule: aligned at the last dimension, a 1 stretches. A varying first dimension is
 * given by its bound.
 */
export function broadcastTo(x: Tensor, shape: readonly number[]): Tensor {
  const skip = shape.length - x.shape.length;
  if (skip < 0 || x.shape.some((d, i) => d !== 1 && boundOf(d) !== shape[i + skip]))
    throw new ShapeError(`broadcastTo: ${showShape(x.shape)} does not stretch to [${shape.join(', ')}]`);
  if (skip === 0 && x.shape.every((d, i) => boundOf(d) === shape[i])) return x;
  const wanted = shape.map((n, i) => (x.shape[i - skip] === undefined || x.shape[i - skip] === 1 ? n : 1));
  return emit1('where', [full(x, wanted, 1, 'bool'), x, scalar(x, 0)]);
}

/** Tensors of one shape side by side along a new dimension before `axis` (-1: at the end). */
export const stack = (tensors: readonly Tensor[], axis = 0): Tensor => {
  const [first] = tensors;
  if (tensors.length === 0) throw new ShapeError('stack: needs at least one tensor');
  return concat(
    tensors.map((x) => unsqueeze(x, axis)),
    axisOf('stack', first, axis, 1),
  );
};

/** Splits `axis` into `parts` of equal size, or into parts of the sizes given. */
export function split(x: Tensor, parts: number | readonly number[], axis = 0): Tensor[] {
  const at = axisOf('split', x, axis),
    size = boundOf(x.shape[at]);
  const equal = typeof parts === 'number' && parts >= 1 && parts <= Math.max(1, size) && Number.isInteger(size / parts);
  const sizes = typeof parts !== 'number' ? parts : equal ? Array.from({ length: parts }, () => size / parts) : [NaN];
  if (!sizes.every(Number.isInteger) || sizes.reduce((a, b) => a + b, 0) !== size) {
    throw new ShapeError(
      `split: dimension ${at} of ${showShape(x.shape)} cannot be cut into ` +
        `${typeof parts === 'number' ? `${parts} equal parts` : `[${parts.join(', ')}]`}`,
    );
  }
  let from = 0;
  return sizes.map((n) => slice(x, at, from, (from += n)));
}

/** Repeats each element along `axis`: [a, b] -> [a, a, b, b]. */
export function repeat(x: Tensor, times: number, axis: number): Tensor {
  const at = axisOf('repeat', x, axis),
    dims = x.shape.map(boundOf),
    after = dims.slice(at + 1);
  const wide = broadcastTo(unsqueeze(x, at + 1), [...dims.slice(0, at + 1), times, ...after]);
  return reshape(wide, [...dims.slice(0, at), dims[at] * times, ...after]);
}

/** Repeats the whole of `axis`: [a, b] -> [a, b, a, b]. */
export function tile(x: Tensor, times: number, axis: number): Tensor {
  const at = axisOf('tile', x, axis),
    dims = x.shape.map(boundOf),
    rest = dims.slice(at);
  const wide = broadcastTo(unsqueeze(x, at), [...dims.slice(0, at), times, ...rest]);
  return reshape(wide, [...dims.slice(0, at), rest[0] * times, ...rest.slice(1)]);
}

/** x with `value` around it: so many before and after along each axis, [[before, after], ...]. */
export function padAll(x: Tensor, widths: readonly (readonly [before: number, after: number])[], value = 0): Tensor {
  if (widths.length !== x.shape.length)
    throw new ShapeError(
      `padAll: needs [before, after] for each of ${x.shape.length} dimensions, got ${widths.length}`,
    );
  return widths.reduce((t, [before, after], axis) => {
    if (before === 0 && after === 0) return t;
    if (value === 0 || before < 0 || after < 0) return pad(t, axis, before, after);
    const block = (n: number): Tensor[] =>
      n === 0
        ? []
        : [
            broadcastTo(
              scalar(x, value),
              t.shape.map((d, i) => (i === axis ? n : boundOf(d))),
            ),
          ];
    return concat([...block(before), t, ...block(after)], axis);
  }, x);
}
