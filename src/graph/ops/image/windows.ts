// What convolution and pooling share: windows that slide over an image, along one axis at a time. Tap t of output o
// reads place o * stride - before + t * dilation of an axis; places outside the image are padding.
import { ShapeError } from '../../../base/errors.ts';
import { either, oneOf, type Kind } from '../../../base/kinds.ts';
import { shown } from '../../../base/options.ts';
import { boundOf, isDynamic, showType, type TensorType } from '../../../base/shape.ts';
import type { Expr, Exprs } from '../../../kernel/expr.ts';
import type { RefCall } from '../../op.ts';
import type { Tensor } from '../../tensor.ts';

/** One number for both axes, or [vertical, horizontal]. */
export type Pair = number | readonly [number, number];
/**
 * One number for all sides; [vertical, horizontal]; [top, bottom, left, right]; 'same': as much as makes the output
 * ceil(size / stride).
 */
export type Padding = number | readonly [number, number] | readonly [number, number, number, number] | 'same';

/** Attributes of every op with windows. Arrays are [vertical, horizontal], padding is [top, bottom, left, right]. */
export type WindowAttrs = {
  readonly stride: readonly number[];
  readonly padding: readonly number[];
  readonly dilation: readonly number[];
};

/** The largest number of taps that is written out in a kernel's text. */
export const MOST_TAPS = 256;

/** Kinds of options: one whole number of at least `least`, or two of them; padding. */
export const aPair = (least: number): Kind =>
  listed(`a whole number of at least ${least}, or [vertical, horizontal] of such`, least, [2]);
export const aPadding: Kind = either(
  oneOf('same'),
  listed('a whole number of at least 0, or a list of 2 or 4 of such', 0, [4, 2]),
);

function listed(what: string, least: number, lengths: readonly number[]): Kind {
  return (value) => {
    const list: readonly unknown[] = Array.isArray(value) ? value : [value],
      fits = !Array.isArray(value) || lengths.includes(list.length);
    return fits && list.every((n) => typeof n === 'number' && whole(n, least)) ? null : what;
  };
}

/** One axis of an image with its windows. */
export interface Axis {
  readonly size: number; // of the image
  readonly taps: number;
  readonly stride: number;
  readonly before: number;
  readonly after: number;
  readonly dilation: number;
  readonly outputs: number;
}

/** Throws ShapeError for anything but a number or a list. */
export function pairOf(p: Pair): readonly [number, number] {
  if (typeof p === 'number') return [p, p];
  if (Array.isArray(p)) return p;
  throw new ShapeError(`a window, stride or dilation must be a number or [vertical, horizontal], got ${shown(p)}`);
}

/** [top, bottom, left, right] for windows of this size over an image [rows, columns, height, width, channels]. */
export function paddingOf(
  p: Padding,
  x: TensorType,
  window: readonly [number, number],
  stride: readonly [number, number],
  dilation: readonly [number, number] = [1, 1],
): readonly number[] {
  if (p !== 'same' && typeof p !== 'number' && !Array.isArray(p))
    throw new ShapeError(`padding must be a number, a list of 2 or 4, or 'same', got ${shown(p)}`);
  if (p !== 'same') return typeof p === 'number' ? [p, p, p, p] : p.length === 2 ? [p[0], p[0], p[1], p[1]] : p;
  return [0, 1].flatMap((d) => {
    const size = boundOf(x.shape[d + 1] ?? 0),
      last = (Math.ceil(size / stride[d]) - 1) * stride[d] + (window[d] - 1) * dilation[d] + 1;
    const all = Math.max(0, last - size);
    return [Math.floor(all / 2), Math.ceil(all / 2)];
  });
}

const whole = (n: number, least: number): boolean => Number.isInteger(n) && n >= least;

/** Both axes of images [N, H, W, C] of type `x` under windows of `taps`; ShapeError where one has no output. */
export function axesOf(
  op: string,
  x: TensorType,
  taps: readonly number[],
  { stride, padding, dilation }: WindowAttrs,
): readonly [Axis, Axis] {
  if (x.shape.length !== 4 || x.shape.slice(1).some((d) => typeof d !== 'number')) {
    throw new ShapeError(
      `${op}: images are [count, height, width, channels], got ${showType(x)}`,
      'reshape them; only the count may vary at run time',
    );
  }
  const settings: readonly (readonly [string, readonly number[], number, number])[] = [
    ['window', taps, 2, 1],
    ['stride', stride, 2, 1],
    ['dilation', dilation, 2, 1],
    ['padding', padding, 4, 0],
  ];
  for (const [what, values, length, least] of settings) {
    if (values.length !== length || !values.every((n) => whole(n, least))) {
      throw new ShapeError(`${op}: ${what} must be whole numbers of at least ${least}, got [${values.join(', ')}]`);
    }
  }
  const [rows, columns] = [0, 1].map((d): Axis => {
    const size = boundOf(x.shape[d + 1]),
      before = padding[2 * d],
      after = padding[2 * d + 1],
      reach = (taps[d] - 1) * dilation[d] + 1;
    const outputs = Math.floor((size + before + after - reach) / stride[d]) + 1;
    if (outputs < 1) {
      throw new ShapeError(
        `${op}: a window that reaches over ${reach} does not fit into ${size + before + after} ` +
          `(dimension ${d + 1} of ${showType(x)}, padded)`,
        'use a smaller window or more padding',
      );
    }
    return { size, taps: taps[d], stride: stride[d], before, after, dilation: dilation[d], outputs };
  });
  return [rows, columns];
}

/** An index if it is `inside`, else 0. */
export interface Place {
  readonly at: Expr;
  readonly inside: Expr;
}

function clamped(e: Exprs, at: Expr, inside: Expr): Place {
  return { at: e.select(inside, at, e.index(0)), inside };
}

/** The place that tap `t` of output `o` reads. */
export function placeOf(e: Exprs, a: Axis, o: Expr, t: Expr): Place {
  const at = e.add([a.stride, o], [a.dilation, t], -a.before);
  return clamped(e, at, e.and(e.le(e.index(0), at), e.lt(at, e.index(a.size))));
}

/** The output whose tap `t` reads place `p`, if there is one. */
export function outputOf(e: Exprs, a: Axis, p: Expr, t: Expr): Place {
  const scaled = e.add(p, [-a.dilation, t], a.before),
    positive = e.le(e.index(0), scaled);
  const safe = e.select(positive, scaled, e.index(0)),
    o = e.div(safe, a.stride);
  const hit = a.stride === 1 ? positive : e.and(positive, e.eq(e.mod(safe, a.stride), e.index(0)));
  return clamped(e, o, e.and(hit, e.lt(o, e.index(a.outputs))));
}

/** A tap, and its place or output. */
export interface Along extends Place {
  readonly tap: Expr;
}

/**
 * The outputs that read place `p`, and by which tap, in the order of taps: without dilation only those whose windows
 * are near enough.
 */
export function lookersOf(e: Exprs, a: Axis, p: Expr): Along[] {
  if (a.dilation !== 1)
    return Array.from({ length: a.taps }, (_, t) => ({ tap: e.index(t), ...outputOf(e, a, p, e.index(t)) }));
  return Array.from({ length: Math.ceil(a.taps / a.stride) }, (_, m) => {
    const from = e.add(p, a.before),
      tap = e.add(e.mod(from, a.stride), m * a.stride),
      o = e.add(e.div(from, a.stride), -m);
    const lies = e.and(e.le(e.index(0), o), e.lt(o, e.index(a.outputs)));
    return { tap, ...clamped(e, o, e.and(lies, e.lt(tap, e.index(a.taps)))) };
  });
}

/** The same in numbers, for references; null for padding, or if there is no output. */
export function placeIn(a: Axis, o: number, t: number): number | null {
  const at = o * a.stride - a.before + t * a.dilation;
  return at >= 0 && at < a.size ? at : null;
}

/** How many images there are in this run. */
export const imagesOf = ({ rows }: RefCall, type: TensorType): number =>
  isDynamic(type.shape) ? rows(type) : boundOf(type.shape[0]);

export const attrsOf = (
  x: Tensor,
  window: readonly [number, number],
  stride: Pair,
  padding: Padding,
  dilation: Pair = 1,
): WindowAttrs => {
  const s = pairOf(stride),
    d = pairOf(dilation);
  return { stride: s, padding: paddingOf(padding, x.type, window, s, d), dilation: d };
};
