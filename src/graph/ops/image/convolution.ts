// What the three convolution ops share. They are one trilinear form, the sum over images, outputs, taps and channels of
// x[n, p, c] w[t, c, o] y[n, q, o], where output q reads place p at tap t, with one factor left out. So each is the
// gradient of another, to any order.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, sameDim, showType, type TensorType } from '../../../base/shape.ts';
import type { Expr, Exprs } from '../../../kernel/expr.ts';
import { axesOf, type Axis, type WindowAttrs } from './windows.ts';
import { unlike } from '../checked.ts';

/** groups: channels are divided into so many groups, each with its own outputs. */
export type ConvAttrs = WindowAttrs & { readonly groups: number };

export interface Geometry {
  readonly axes: readonly [Axis, Axis];
  readonly groups: number;
  readonly inputs: number;
  readonly outputs: number; // channels, all groups together
  readonly groupInputs: number;
  readonly groupOutputs: number;
}

/**
 * Of images x [N, H, W, inputs] and weights [taps, taps, inputs / groups, outputs]; ShapeError where they do not fit.
 */
export function geometry(op: string, x: TensorType, weight: readonly number[], attrs: ConvAttrs): Geometry {
  const axes = axesOf(op, x, weight.slice(0, 2), attrs),
    { groups } = attrs;
  const inputs = boundOf(x.shape[3]),
    outputs = weight[3];
  if (
    !Number.isInteger(groups) ||
    groups < 1 ||
    weight.length !== 4 ||
    inputs !== weight[2] * groups ||
    outputs % groups !== 0
  ) {
    throw new ShapeError(
      `${op}: images ${showType(x)} and weights [${weight.join(', ')}] do not fit in ${groups} groups`,
      'images [N, H, W, inputs] need weights [rows, columns, inputs / groups, outputs]; groups divide inputs and ' +
        'outputs',
    );
  }
  return { axes, groups, inputs, outputs, groupInputs: weight[2], groupOutputs: outputs / groups };
}

export function checkFloats(op: string, a: TensorType, b: TensorType): void {
  if (a.dtype !== b.dtype) throw unlike(op, a.dtype, b.dtype);
}

/** Checks that `dy` has the type of the result of this convolution. */
export function checkOutput(op: string, { axes: [rows, columns], outputs }: Geometry, dy: TensorType): void {
  if (
    dy.shape.length !== 4 ||
    dy.shape[1] !== rows.outputs ||
    dy.shape[2] !== columns.outputs ||
    dy.shape[3] !== outputs
  ) {
    throw new ShapeError(`${op}: ${showType(dy)} is not [N, ${rows.outputs}, ${columns.outputs}, ${outputs}]`);
  }
}

/** Checks that there is a result for each of the images. */
export function checkCount(op: string, x: TensorType, dy: TensorType): void {
  if (!sameDim(x.shape[0], dy.shape[0]))
    throw new ShapeError(`${op}: ${showType(x)} and ${showType(dy)} differ in the number of images`);
}

/** The numbers whose row-major index in [any, b, c] is `i`. */
export const unravel3 = (e: Exprs, i: Expr, b: number, c: number): readonly [Expr, Expr, Expr] => [
  e.div(i, b * c),
  e.mod(e.div(i, c), b),
  e.mod(i, c),
];
