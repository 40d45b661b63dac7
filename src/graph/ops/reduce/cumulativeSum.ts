// Prefix sums along an axis. Elements are added one by one from the first on (from the last, if reversed), so the order
// is the same on every device; threads and lanes take different rows and columns.
import { checkAxis } from '../checked.ts';
import { ShapeError } from '../../../base/errors.ts';
import { checkOptions, type KeysOf } from '../../../base/options.ts';
import { aFlag } from '../../../base/kinds.ts';
import { boundOf, elements, showType, stridesOf } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    cumulativeSum: CumulativeSumAttrs;
  }
}

/** exclusive: each sum leaves out its own element. reverse: sums go from the end. */
export type CumulativeSumAttrs = { readonly axis: number; readonly exclusive: boolean; readonly reverse: boolean };

const COLUMNS = 64; // that run in lanes

export const cumulativeSumOp: Op<CumulativeSumAttrs> = {
  // Sum of the elements up to each one along an axis.
  name: 'cumulativeSum',
  keepsRows: true,
  takes: ['numbers'],
  infer([x], { axis }) {
    checkAxis('cumulativeSum', x, axis);
    if (typeof x.shape[axis] !== 'number')
      throw new ShapeError(`cumulativeSum: dimension ${axis} of ${showType(x)} varies at run time`);
    return [x];
  },
  grad: ({ douts: [d], attrs }) => [d && emit1('cumulativeSum', [d], { ...attrs, reverse: !attrs.reverse })],
  lower: {
    kind: 'loops',
    build({ e, k: w, inTypes: [type], inputs: [x], outputs: [out], attrs: { axis, exclusive, reverse } }) {
      const { dtype, shape } = type,
        n = boundOf(shape[axis]),
        inner = stridesOf(shape)[axis];
      const columns = Math.max(1, Math.min(COLUMNS, inner)),
        blocks = Math.ceil(inner / columns);
      const rows = axis === 0 ? e.index(1) : e.scale(w.extent(type, 0), elements(shape.slice(1, axis)));
      return {
        grid: { extent: e.scale(rows, blocks), work: Math.max(1, n * columns) },
        body(g) {
          const row = e.div(g, blocks),
            column = e.scale(e.mod(g, blocks), columns),
            sum = w.array(dtype, columns);
          const live = inner % columns === 0 ? e.index(columns) : e.min(e.index(columns), e.add([-1, column], inner));
          return [
            sum.fill(0),
            w.loop(n, (i) => {
              const step = reverse ? e.add([-1, i], n - 1) : i;
              return [
                w.vector(live, (c) => {
                  const at: Expr = e.add([n * inner, row], [inner, step], column, c);
                  const store = w.store(out, at, sum.at(c)),
                    add = sum.set(c, e.op('add', [sum.at(c), w.load(x, at)]));
                  return exclusive ? [store, add] : [add, store];
                }),
              ];
            }),
          ];
        },
      };
    },
  },
};

export interface CumulativeSumOptions {
  readonly exclusive?: boolean;
  readonly reverse?: boolean;
}
const KEYS: KeysOf<CumulativeSumOptions> = { exclusive: aFlag, reverse: aFlag };

/**
 * Sum of the elements up to each one along `axis` (default: the last), of x's shape. `exclusive`: without the element
 * itself; `reverse`: from each one to the end. Added one by one, in that order.
 */
export function cumulativeSum(x: Tensor, axis = -1, options: CumulativeSumOptions = {}): Tensor {
  checkOptions('cumulativeSum', options, KEYS);
  const { exclusive = false, reverse = false } = options;
  return emit1('cumulativeSum', [x], { axis: axis < 0 ? axis + x.shape.length : axis, exclusive, reverse });
}
