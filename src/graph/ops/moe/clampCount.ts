// Clamps counts or offsets to a bound. The compiler puts it before a dimension whose count it cannot trust
// (passes/clamp-counts.ts).
import { ShapeError } from '../../../base/errors.ts';
import { showType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    clampCount: ClampCountAttrs;
  }
}

export type ClampCountAttrs = { readonly bound: number };

export const clampCountOp: Op<ClampCountAttrs> = {
  // Each count, but at least 0 and at most the bound.
  name: 'clampCount',
  countsAreInBounds: true,
  infer([x], { bound }) {
    if (!Number.isInteger(bound) || bound < 0 || bound > 2 ** 31 - 1)
      throw new ShapeError(`clampCount: the bound must be a whole number from 0 to 2147483647, got ${String(bound)}`);
    if (x.dtype !== 'int32') throw new ShapeError(`clampCount: counts are int32, got ${showType(x)}`);
    return [x];
  },
  lower: {
    kind: 'map',
    at({ e, inputs: [x], attrs: { bound }, int }, index) {
      const most = e.cast(int('bound', bound), 'int32');
      return e.min(e.max(x.at(index), e.const(0, 'int32')), most);
    },
  },
};
