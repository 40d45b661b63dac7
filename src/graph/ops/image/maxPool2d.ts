// The largest element of each window, and its number in the window (the first of equal ones; a NaN is larger than any
// number). The gradient needs only this number: it gathers, and does not read the image.
import { checkOptions } from '../../../base/options.ts';
import { sizes } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { MapCall, Op } from '../../op.ts';
import { emit, emit1, type Tensor } from '../../tensor.ts';
import { POOL_KEYS, poolAttrs, poolAxes, pooled, taps, type PoolAttrs, type PoolOptions } from './pooling.ts';
import type { Pair } from './windows.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    maxPool2d: PoolAttrs;
  }
}

export const maxPool2dOp: Op<PoolAttrs> = {
  // Largest element of each window; its row-major number in the window.
  name: 'maxPool2d',
  activations: { inputs: [0], outputs: [0] },
  keepsRows: true,
  takes: ['floats'],
  infer([x], attrs) {
    const shape = pooled(x, poolAxes('maxPool2d', x, attrs));
    return [
      { dtype: x.dtype, shape },
      { dtype: 'int32', shape },
    ];
  },
  grad: ({ inputs: [x], outputs: [, which], douts: [dy], attrs }) => [
    dy && emit1('maxPool2dGrad', [dy, which], { ...attrs, size: sizes(x.shape).slice(1, 3) }),
  ],
  lower: { kind: 'map', weight: 8, passes: 1, at: (call, index, output) => largest(call, index)[output] },
};

/**
 * The largest element and its number. Selections are nested: gcc 12 does not vectorise conditions that are joined with
 * "and".
 */
function largest({ e, inputs: [x], attrs }: MapCall<PoolAttrs>, [n, r, q, c]: readonly Expr[]): [Expr, Expr] {
  const dtype = x.type.dtype,
    none = e.const(-1, 'int32'); // the number until a tap is inside the image
  const real = taps(e, poolAxes('maxPool2d', x.type, attrs), r, q).filter(
    (t) => t.inside.k !== 'const' || t.inside.value !== 0,
  );
  let best: Expr = e.const(-Infinity, dtype),
    which: Expr = none,
    certain = false;
  for (const t of real) {
    const v = x.at([n, t.row, t.column, c]),
      number = e.cast(t.number, 'int32');
    const choose = (old: Expr, fresh: Expr): Expr => {
      const larger = e.select(e.le(v, best), old, e.select(e.eq(best, best), fresh, old));
      const first = certain ? larger : which === none ? fresh : e.select(e.eq(which, none), fresh, larger);
      return e.select(t.inside, first, old);
    };
    [best, which] = [choose(best, v), choose(which, number)];
    certain ||= t.inside.k === 'const';
  }
  return [best, which];
}

/**
 * The largest element of each window of x [N, H, W, C] -> [N, H', W', C], H' = floor((H + padding - window) / stride) +
 * 1. Padding never wins; the stride is the window's size by default. N may vary at run time.
 */
export function maxPool2d(x: Tensor, window: Pair, options: PoolOptions = {}): Tensor {
  checkOptions('maxPool2d', options, POOL_KEYS);
  return emit('maxPool2d', [x], poolAttrs(x, window, options))[0];
}
