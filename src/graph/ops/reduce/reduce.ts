// What reductions over axes share: the order of summation that follows from the axes, expressions of elements, a
// reference.
import { ShapeError } from '../../../base/errors.ts';
import type { PartsAttrs } from '../../../base/parts.ts';
import { boundOf, type Dim, type TensorType } from '../../../base/shape.ts';
import type { Expr, ReduceOp } from '../../../kernel/expr.ts';
import type { MapCall } from '../../op.ts';
import type { Tensor } from '../../tensor.ts';
import { checkAxes } from '../checked.ts';

/** Sorted, non-negative, without repeats. */
export function normaliseAxes(op: string, x: Tensor, axes: readonly number[] | undefined): number[] {
  const rank = x.shape.length;
  const list = (axes ?? x.shape.map((_, i) => i)).map((a) => (a < 0 ? a + rank : a)).sort((a, b) => a - b);
  if (list.some((a, i) => !Number.isInteger(a) || a < 0 || a >= rank || a === list[i - 1])) {
    throw new ShapeError(`${op}: axes [${(axes ?? []).join(', ')}] do not fit a tensor with ${rank} dimensions`);
  }
  return list;
}

/** Throws if axes are not ascending axes of x, or if there are none. */
export function checkReduced(op: string, x: TensorType, axes: readonly number[]): void {
  checkAxes(op, x, axes);
  if (axes.length === 0) throw new ShapeError(`${op}: no axes are given`);
}

/** Whether the reduced axes are the last ones: they are then summed as one range, in lanes. */
const isTrailing = (shape: readonly Dim[], axes: readonly number[]): boolean =>
  axes.length > 0 && axes.every((a, i) => a === shape.length - axes.length + i);

/**
 * The reduction of input 0 over `axes` at the multi-index `index` of the kept axes; serial, or in parts of the first
 * reduced axis, if `how` says so.
 */
export function reduceAt(
  call: MapCall,
  op: ReduceOp,
  axes: readonly number[],
  index: readonly Expr[],
  how: { readonly serial?: boolean } & PartsAttrs = {},
): Expr {
  const {
      e,
      inputs: [x],
    } = call,
    shape = x.type.shape;
  // Reduced axes are one range in row-major order; only the first may vary at run time.
  const inner = axes.slice(1).reduce((n, a) => n * boundOf(shape[a]), 1);
  const extent = e.scale(call.extent(x.type, axes[0]), inner),
    parts = call.parts(how, shape[axes[0]], inner),
    order = isTrailing(shape, axes) && how.serial !== true && !parts ? 'lanes' : 'serial';
  const element = (r: Expr): Expr => {
    const at = new Array<Expr>(shape.length);
    let kept = 0,
      step = inner;
    axes.forEach((a, n) => {
      if (n > 0) step /= boundOf(shape[a]);
      at[a] = n === 0 ? e.div(r, step) : e.mod(e.div(r, step), boundOf(shape[a]));
    });
    for (let d = 0; d < shape.length; d++) if (!axes.includes(d)) at[d] = index[kept++];
    return x.at(at);
  };
  return e.reduce(op, order, extent, element, parts);
}
