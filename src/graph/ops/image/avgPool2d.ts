// The mean of each window, summed tap by tap in row-major order, divided by how many elements of the image the window
// covers (or, with `padded`, by its size: padding counts as zeros).
import { checkOptions, refuseUnused, type KeysOf } from '../../../base/options.ts';
import { aFlag } from '../../../base/kinds.ts';
import { sizes } from '../../../base/shape.ts';
import type { DType } from '../../../base/dtype.ts';
import type { Expr, Exprs } from '../../../kernel/expr.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { POOL_KEYS, poolAttrs, poolAxes, pooled, taps, type PoolAttrs, type PoolOptions } from './pooling.ts';
import { placeIn, type Axis, type Pair } from './windows.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    avgPool2d: AvgPoolAttrs;
  }
}

export type AvgPoolAttrs = PoolAttrs & { readonly padded: boolean };

export const avgPool2dOp: Op<AvgPoolAttrs> = {
  // Mean of each window.
  name: 'avgPool2d',
  activations: { inputs: [0], outputs: [0] },
  keepsRows: true,
  takes: ['floats'],
  infer: ([x], attrs) => [{ dtype: x.dtype, shape: pooled(x, poolAxes('avgPool2d', x, attrs)) }],
  grad: ({ inputs: [x], douts: [dy], attrs }) => [
    dy && emit1('avgPool2dGrad', [dy], { ...attrs, size: sizes(x.shape).slice(1, 3) }),
  ],
  lower: {
    kind: 'map',
    weight: 6,
    at({ e, inputs: [x], attrs }, [n, r, q, c]) {
      const dtype = x.type.dtype,
        axes = poolAxes('avgPool2d', x.type, attrs),
        zero = e.const(0, dtype);
      const total = taps(e, axes, r, q)
        .map((t) => e.select(t.inside, x.at([n, t.row, t.column, c]), zero))
        .reduce((a, b) => e.op('add', [a, b]));
      return e.op('div', [total, covered(e, axes, r, q, attrs.padded, dtype)]);
    },
  },
};

/** The divisor of the window of output (r, q). */
export function covered(e: Exprs, axes: readonly [Axis, Axis], r: Expr, q: Expr, padded: boolean, dtype: DType): Expr {
  const [rows, columns] = axes.map((a, d) => {
    if (padded || a.before + a.after === 0) return e.const(a.taps, dtype);
    const start = e.add([a.stride, d === 0 ? r : q], -a.before),
      end = e.add(start, a.taps);
    const lo = e.select(e.lt(start, e.index(0)), e.index(0), start);
    return e.cast(e.add(e.min(e.index(a.size), end), [-1, lo]), dtype);
  });
  return rows.k === 'const' && columns.k === 'const'
    ? e.const(rows.value * columns.value, dtype)
    : e.op('mul', [rows, columns]);
}

/** In numbers, for each output of an image: 1 over its divisor. */
export function shares(axes: readonly [Axis, Axis], padded: boolean): Float64Array {
  const [rows, columns] = axes.map((a) =>
    Array.from({ length: a.outputs }, (_, o) =>
      padded ? a.taps : Array.from({ length: a.taps }, (_, t) => placeIn(a, o, t)).filter((p) => p !== null).length,
    ),
  );
  return Float64Array.from(rows.flatMap((r) => columns.map((c) => 1 / (r * c))));
}

export interface AvgPoolOptions extends PoolOptions {
  /** Padding counts as zeros; otherwise (the default) a window's mean is that of the elements that it covers. */
  readonly padded?: boolean;
}
const KEYS: KeysOf<AvgPoolOptions> = { ...POOL_KEYS, padded: aFlag };

/** Throws UserError for an unknown option, or one without effect. */
export function checkAvgPool(where: string, options: AvgPoolOptions): void {
  checkOptions(where, options, KEYS);
  const { padding = 0, padded } = options;
  if (padded === true && padding === 0) refuseUnused(where, options, { padded: 'there is no padding' });
}

/**
 * The mean of each window of x [N, H, W, C] -> [N, H', W', C], H' = floor((H + padding - window) / stride) + 1; the
 * stride is the window's size by default. N may vary at run time.
 */
export function avgPool2d(x: Tensor, window: Pair, options: AvgPoolOptions = {}): Tensor {
  checkAvgPool('avgPool2d', options);
  return emit1('avgPool2d', [x], { ...poolAttrs(x, window, options), padded: options.padded ?? false });
}
