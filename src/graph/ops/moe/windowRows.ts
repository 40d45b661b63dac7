// The rows of a window of all rows: a view. Its gradient is written into the gradient of all rows, together with that
// of the other windows (placeRows).
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, showType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { checkVector, segmentsOf } from './routing.ts';
import { checkWindow, type WindowAttrs } from './windowOffsets.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    windowRows: WindowAttrs;
  }
}

export const windowRowsOp: Op<WindowAttrs> = {
  // Row r = x[start + r], in the segments of offsets (windowOffsets); of an int32 vector all of size, without offsets.
  name: 'windowRows',
  takes: ['stored'],
  moves: 'first',
  unread: [1],
  infer([x, offsets], attrs, ids) {
    checkWindow('windowRows', attrs);
    const { start, size } = attrs;
    if (x.shape.length === 0 || start + size > boundOf(x.shape[0]))
      throw new ShapeError(`windowRows: ${showType(x)} has no ${size} rows from ${start}`);
    if (!offsets) {
      checkVector('windowRows', 'x without offsets', x);
      return [{ dtype: x.dtype, shape: [size] }];
    }
    const { segments } = segmentsOf('windowRows', x);
    checkVector('windowRows', 'offsets', offsets, segments + 1);
    return [
      { dtype: x.dtype, shape: [{ kind: 'segmented', bound: size, segments, offsets: ids[1] }, ...x.shape.slice(1)] },
    ];
  },
  grad({ inputs: [x], douts: [d], attrs: { start }, takeAccumulatedGrad }) {
    if (!d) return [null, null];
    const { bound, offsets } = segmentsOf('windowRows', x.type),
      others = takeAccumulatedGrad(0, 'alike');
    return [
      emit1('placeRows', [d, x.builder.tensor(offsets), ...(others ? [others] : [])], { start, rows: bound }),
      null,
    ];
  },
  lower: {
    kind: 'map',
    weight: 0,
    readsDisjointSlice: true,
    at: ({ e, inputs: [x], attrs, int }, [r, ...rest]) => x.at([e.add(int('start', attrs.start), r), ...rest]),
  },
};

/**
 * x [rows in E segments, ...rest], offsets of the window -> [rows of the window in E segments, ...rest]. The windows of
 * one x must not overlap, and together must cover it: the gradient of each row comes from one of them.
 */
export const windowRows = (x: Tensor, offsets: Tensor, attrs: WindowAttrs): Tensor =>
  emit1('windowRows', [x, offsets], attrs);
/** The same for an int32 vector. */
export const windowOf = (x: Tensor, attrs: WindowAttrs): Tensor => emit1('windowRows', [x], attrs);
