// The gradient of a convolution for its images (also called a transposed convolution): a product per group whose rows
// are places of the images and whose depth is (tap row, tap column, output channel), in ascending order. A tap at which
// no output reads the place adds 0. With a stride s, places that are s apart are read by the same taps, every s-th of
// them: then there is a product for each phase, over those taps only.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, showType, sizes, type TensorType } from '../../../base/shape.ts';
import type { Expr, Exprs } from '../../../kernel/expr.ts';
import type { Op } from '../../op.ts';
import { emit1 } from '../../tensor.ts';
import { checkFloats, checkOutput, geometry, unravel3, type ConvAttrs, type Geometry } from './convolution.ts';
import { outputOf, type Axis, type Place } from './windows.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    conv2dGradInput: ConvGradInputAttrs;
  }
}

/** size: [height, width] of the images. */
export type ConvGradInputAttrs = ConvAttrs & { readonly size: readonly number[] };

export function gradInputShapes(
  dy: TensorType,
  w: TensorType,
  attrs: ConvGradInputAttrs,
): { g: Geometry; images: TensorType } {
  if (dy.shape.length !== 4 || w.shape.length !== 4)
    throw new ShapeError(`conv2dGradInput: ${showType(dy)} and ${showType(w)} are not images and weights`);
  const images: TensorType = {
    dtype: dy.dtype,
    shape: [dy.shape[0], ...attrs.size, boundOf(w.shape[2]) * attrs.groups],
  };
  return { g: geometry('conv2dGradInput', images, sizes(w.shape), attrs), images };
}

export const conv2dGradInputOp: Op<ConvGradInputAttrs> = {
  // Gradient of conv2d for its images, from that of its result and the weights.
  name: 'conv2dGradInput',
  keepsRows: true,
  takes: ['floats'],
  infer([dy, w], attrs) {
    const { g, images } = gradInputShapes(dy, w, attrs);
    checkFloats('conv2dGradInput', dy, w);
    checkOutput('conv2dGradInput', g, dy);
    return [images];
  },
  grad({ inputs: [dy, w], douts: [u], attrs: { size: _, ...attrs }, needs }) {
    if (!u) return [null, null];
    return [
      needs[0] ? emit1('conv2d', [u, w], attrs) : null,
      needs[1] ? emit1('conv2dGradWeight', [u, dy], { ...attrs, taps: sizes(w.shape).slice(0, 2) }) : null,
    ];
  },
  lower: {
    kind: 'matmul',
    stored: true,
    build(call) {
      const {
          e,
          inputs: [dy, w],
          attrs,
        } = call,
        { g } = gradInputShapes(dy.type, w.type, attrs),
        dtype = dy.type.dtype;
      const { groupInputs: I, groupOutputs: O } = g,
        [rows, columns] = g.axes.map(phased);
      const phases = (z: Expr): readonly [Expr, Expr, Expr] => unravel3(e, z, rows.phases, columns.phases);
      return {
        groups: attrs.groups * rows.phases * columns.phases,
        m: call.all(dy.type.shape[0], rows.places * columns.places),
        n: I,
        depth: rows.taps * columns.taps * O,
        a(z, i, k) {
          const [group, f, d] = phases(z),
            [n, h, v] = unravel3(e, i, rows.places, columns.places),
            [s, t, o] = unravel3(e, k, columns.taps, O);
          const r = rows.output(e, f, h, s),
            q = columns.output(e, d, v, t);
          return e.select(e.and(r.inside, q.inside), dy.at([n, r.at, q.at, e.add([O, group], o)]), e.const(0, dtype));
        },
        b(z, k, j) {
          const [group, f, d] = phases(z),
            [s, t, o] = unravel3(e, k, columns.taps, O);
          return w.at([rows.tap(e, f, s), columns.tap(e, d, t), j, e.add([O, group], o)]);
        },
        index(z, i, j) {
          const [group, f, d] = phases(z),
            [n, h, v] = unravel3(e, i, rows.places, columns.places);
          return [n, e.add([rows.phases, h], f), e.add([columns.phases, v], d), e.add([I, group], j)];
        },
      };
    },
  },
};

/**
 * An axis whose places are numbered by phase: place number p of phase f is p * phases + f. Each phase has so many taps;
 * tap number m is ...
 */
interface Phased {
  readonly phases: number;
  readonly places: number;
  readonly taps: number;
  /** ... this tap of the window (any tap, if there is none), ... */
  tap(e: Exprs, f: Expr, m: Expr): Expr;
  /** ... at which this output reads the place. */
  output(e: Exprs, f: Expr, p: Expr, m: Expr): Place;
}

function phased(a: Axis): Phased {
  const { stride, dilation, size, taps, before, outputs } = a;
  if (stride === 1 || dilation !== 1 || size % stride !== 0) {
    return { phases: 1, places: size, taps, tap: (_, __, m) => m, output: (e, _, p, m) => outputOf(e, a, p, m) };
  }
  const from = (e: Exprs, f: Expr): Expr => e.add(f, before);
  const number = (e: Exprs, f: Expr, m: Expr): Expr => e.add(e.mod(from(e, f), stride), [stride, m]);
  return {
    phases: stride,
    places: size / stride,
    taps: Math.ceil(taps / stride),
    tap: (e, f, m) => e.min(number(e, f, m), e.index(taps - 1)),
    output(e, f, p, m) {
      const o = e.add(e.div(from(e, f), stride), p, [-1, m]);
      const lies = e.and(e.le(e.index(0), o), e.lt(o, e.index(outputs)));
      const inside = e.and(lies, e.lt(number(e, f, m), e.index(taps)));
      return { inside, at: e.select(inside, o, e.index(0)) };
    },
  };
}
