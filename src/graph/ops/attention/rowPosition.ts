// The position of each row within its segment: of a token within its sequence, for rotary positions.
import { ShapeError } from '../../../base/errors.ts';
import { isDynamic, showType } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    rowPosition: NoAttrs;
  }
}

export const rowPositionOp: Op = {
  // Row r - offsets[s] of x, whose values are not read, for rows of segment s; r without offsets.
  name: 'rowPosition',
  keepsRows: true,
  takes: ['stored'],
  unread: [0],
  infer([x, ...offsets], _, ids) {
    const [first] = x.shape;
    if (!isDynamic(x.shape)) throw new ShapeError(`rowPosition: the first dimension is fixed: ${showType(x)}`);
    const of = typeof first === 'object' && first.kind === 'segmented' ? [first.offsets] : [];
    if (offsets.length !== of.length || of.some((v) => v !== ids[1]))
      throw new ShapeError(`rowPosition: needs the offsets of ${showType(x)}, and nothing else`);
    return [{ dtype: 'int32', shape: [first] }];
  },
  lower: {
    kind: 'map',
    weight: 8,
    stored: () => true,
    at({ e, inputs: [x, offsets] }, [row]) {
      const [first] = x.type.shape;
      if (typeof first === 'number' || first.kind !== 'segmented') return e.cast(row, 'int32');
      const begin = (s: Expr): Expr => e.cast(offsets.at([s]), 'index');
      // The last segment that does not begin after the row: empty ones before it begin at the same row.
      let segment: Expr = e.index(0);
      for (let step = 2 ** Math.floor(Math.log2(first.segments)); step >= 1; step /= 2) {
        const next = e.min(e.add(segment, step), e.index(first.segments));
        segment = e.select(e.le(begin(next), row), next, segment);
      }
      return e.cast(e.add(row, [-1, begin(segment)]), 'int32');
    },
  },
};

/** x [rows, ..], whose first dimension varies -> int32 [rows]: 0 for the first row of each segment. */
export function rowPosition(x: Tensor): Tensor {
  const [first] = x.shape,
    segmented = typeof first === 'object' && first.kind === 'segmented';
  return emit1('rowPosition', [x, ...(segmented ? [x.builder.tensor(first.offsets)] : [])]);
}
