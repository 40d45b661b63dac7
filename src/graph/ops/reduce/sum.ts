// Sum over axes, which are removed. Trailing axes are summed in 16 interleaved lanes, others one by one
// (docs/architecture/lowering.md).
import { rowCount } from '../moe/rowCount.ts';
import { isFloat } from '../../../base/dtype.ts';
import { ShapeError } from '../../../base/errors.ts';
import { checkParts, type PartsAttrs } from '../../../base/parts.ts';
import { boundOf, showType, type Dim } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, scalar, type Tensor } from '../../tensor.ts';
import { checkReduced, normaliseAxes, reduceAt } from './reduce.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    sum: SumAttrs;
  }
}

/** `serial`: trailing axes are summed one by one too. In parts: those of the first axis, always one by one. */
export type SumAttrs = { readonly axes: readonly number[]; readonly serial?: boolean } & PartsAttrs;

const kept = (shape: readonly Dim[], axes: readonly number[]): Dim[] => shape.filter((_, i) => !axes.includes(i));

export const sumOp: Op<SumAttrs> = {
  // Sum over axes.
  name: 'sum',
  takes: ['numbers'],
  infer([x], { axes, ...how }) {
    checkReduced('sum', x, axes);
    checkParts('sum', how, x.shape[axes[0]]);
    return [{ dtype: x.dtype, shape: kept(x.shape, axes) }];
  },
  grad({ inputs: [x], douts: [dout], attrs: { axes } }) {
    if (!dout) return [null];
    return [emit1('expand', [dout, x], { axes })];
  },
  lower: {
    kind: 'map',
    passes: 1,
    at: (call, index) => reduceAt(call, 'sum', call.attrs.axes, index, call.attrs),
  },
};

/** Sum over `axes` (all by default); reduced axes disappear. */
export function sum(x: Tensor, axes?: readonly number[]): Tensor {
  const list = normaliseAxes('sum', x, axes);
  if (list.length === 0) return x;
  // A sum over the last axis and over axes that are not next to it is computed as two sums: each has one defined order.
  const rank = x.shape.length;
  let first = rank;
  while (first > 0 && list.includes(first - 1)) first--;
  const trailing = list.filter((a) => a >= first),
    others = list.filter((a) => a < first);
  const inner = trailing.length ? emit1('sum', [x], { axes: trailing }) : x;
  return others.length ? emit1('sum', [inner], { axes: others }) : inner;
}

/** Mean over `axes` (all by default). A bounded dimension is divided by the number of rows of the run. */
export function mean(x: Tensor, axes?: readonly number[]): Tensor {
  const list = normaliseAxes('mean', x, axes);
  if (!isFloat(x.dtype))
    throw new ShapeError(`mean: needs floats, got ${showType(x.type)}`, "cast(x, 'float32') first");
  if (list.some((a) => boundOf(x.shape[a]) === 0))
    throw new ShapeError(`mean: there is no mean of 0 elements (${showType(x.type)})`);
  const total = sum(x, list),
    fixed = list.reduce((n, a) => n * (typeof x.shape[a] === 'number' ? boundOf(x.shape[a]) : 1), 1),
    counted = list.some((a) => typeof x.shape[a] !== 'number');
  return emit1('mul', [total, counted ? oneOver(x, fixed) : scalar(total, 1 / fixed)]);
}

/**
 * 1 / (rows of x in this run * fixed) as [] of the dtype of x. The result is computed in float64 and
 * rounded once, so it has the bits of the constant that `mean` uses for a fixed number of rows. least: the smallest
 * divisor, for tensors that may have no rows.
 */
export function oneOver(x: Tensor, fixed: number, least = 0): Tensor {
  const rows = rowCount(x),
    count = emit1('mul', [rows, scalar(rows, fixed)]),
    divisor = least > 0 ? emit1('maximum', [count, scalar(count, least)]) : count;
  const one = emit1('div', [scalar(divisor, 1), divisor]);
  return x.dtype === 'float64' ? one : emit1('cast', [one], { dtype: x.dtype });
}

/** Mean squared distance from the mean over `axes` (all by default). */
export function variance(x: Tensor, axes?: readonly number[]): Tensor {
  const list = normaliseAxes('variance', x, axes),
    away = emit1('sub', [x, emit1('expand', [mean(x, list), x], { axes: list })]);
  return mean(emit1('mul', [away, away]), list);
}
