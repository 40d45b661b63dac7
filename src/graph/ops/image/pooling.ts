// What the pooling ops share: attributes, shapes, and the taps of a window as expressions, in row-major order, written
// out one after the other.
import { ShapeError } from '../../../base/errors.ts';
import type { KeysOf } from '../../../base/options.ts';

import { boundOf, type Dim, showType, type TensorType } from '../../../base/shape.ts';
import type { Expr, Exprs } from '../../../kernel/expr.ts';
import type { Tensor } from '../../tensor.ts';
import {
  MOST_TAPS,
  aPadding,
  aPair,
  attrsOf,
  axesOf,
  lookersOf,
  pairOf,
  placeOf,
  type Along,
  type Axis,
  type Padding,
  type Pair,
  type WindowAttrs,
} from './windows.ts';

/** window: [rows, columns]. */
export type PoolAttrs = WindowAttrs & { readonly window: readonly number[] };
/** size: [height, width] of the images that were pooled. */
export type PoolGradAttrs = PoolAttrs & { readonly size: readonly number[] };

export function poolAxes(op: string, x: TensorType, attrs: PoolAttrs): readonly [Axis, Axis] {
  const { window, padding, dilation } = attrs,
    axes = axesOf(op, x, window, attrs);
  if (dilation.some((d) => d !== 1)) throw new ShapeError(`${op}: windows have no dilation`);
  if (window[0] * window[1] > MOST_TAPS) {
    throw new ShapeError(
      `${op}: a window of ${window[0]} x ${window[1]} is more than ${MOST_TAPS} elements`,
      'the mean or max over whole axes pools whole images',
    );
  }
  if (padding.some((p, i) => p >= window[i >> 1])) {
    throw new ShapeError(
      `${op}: padding [${padding.join(', ')}] leaves windows of [${window.join(', ')}] with nothing in them`,
      'padding must be smaller than the window',
    );
  }
  if (x.shape[1] === 0 || x.shape[2] === 0) throw new ShapeError(`${op}: images ${showType(x)} have no pixels to pool`);
  return axes;
}

/** The type of pooled images. */
export const pooled = (x: TensorType, [rows, columns]: readonly [Axis, Axis]): readonly Dim[] => [
  x.shape[0],
  rows.outputs,
  columns.outputs,
  x.shape[3],
];

/** The type of the images whose pooled images are `y`. */
export const unpooled = (y: TensorType, size: readonly number[]): TensorType => ({
  dtype: y.dtype,
  shape: [y.shape[0], ...size, y.shape[3]],
});

export function checkPooled(op: string, y: TensorType, [rows, columns]: readonly [Axis, Axis]): void {
  if (y.shape[1] !== rows.outputs || y.shape[2] !== columns.outputs) {
    throw new ShapeError(
      `${op}: pooled images are [N, ${rows.outputs}, ${columns.outputs}, C], got ` +
        `${boundOf(y.shape[1] ?? 0)} x ${boundOf(y.shape[2] ?? 0)}`,
    );
  }
}

/**
 * A tap of a window: its row-major number, the place that it reads (or the output that reads it), and whether that
 * exists.
 */
export interface Tap {
  readonly number: Expr;
  readonly row: Expr;
  readonly column: Expr;
  readonly inside: Expr;
}

/** The places that output (r, q) reads. */
export function taps(e: Exprs, [rows, columns]: readonly [Axis, Axis], r: Expr, q: Expr): Tap[] {
  const along = (a: Axis, o: Expr): Along[] =>
    Array.from({ length: a.taps }, (_, t) => ({ tap: e.index(t), ...placeOf(e, a, o, e.index(t)) }));
  return cross(e, columns.taps, along(rows, r), along(columns, q));
}

/** The outputs that read place (h, v), in the order of their taps. */
export const lookers = (e: Exprs, [rows, columns]: readonly [Axis, Axis], h: Expr, v: Expr): Tap[] =>
  cross(e, columns.taps, lookersOf(e, rows, h), lookersOf(e, columns, v));

const cross = (e: Exprs, width: number, rows: readonly Along[], columns: readonly Along[]): Tap[] =>
  rows.flatMap((s) =>
    columns.map((t) => ({
      number: e.add([width, s.tap], t.tap),
      row: s.at,
      column: t.at,
      inside: e.and(s.inside, t.inside),
    })),
  );

export interface PoolOptions {
  /** Default: the size of the window, so that windows do not overlap. */
  readonly stride?: Pair;
  readonly padding?: Padding;
}
export const POOL_KEYS: KeysOf<PoolOptions> = { stride: aPair(1), padding: aPadding };

export const poolAttrs = (x: Tensor, window: Pair, { stride = window, padding = 0 }: PoolOptions): PoolAttrs => {
  const size = pairOf(window);
  return { window: size, ...attrsOf(x, size, stride, padding) };
};
