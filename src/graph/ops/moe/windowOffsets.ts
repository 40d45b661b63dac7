// The offsets of each segment's rows inside a window of all rows.
import { ShapeError } from '../../../base/errors.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { checkVector } from './routing.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    windowOffsets: WindowAttrs;
  }
}

/** The window begins at row `start` and has room for `size` rows. */
export type WindowAttrs = { readonly start: number; readonly size: number };

export function checkWindow(op: string, { start, size }: WindowAttrs): void {
  if (![start, size].every((n) => Number.isInteger(n) && n >= 0))
    throw new ShapeError(`${op}: no window of ${size} rows from ${start}`);
}

export const windowOffsetsOp: Op<WindowAttrs> = {
  // min(max(offsets - start, 0), size).
  name: 'windowOffsets',
  countsAreInBounds: true,
  infer([offsets], attrs) {
    checkVector('windowOffsets', 'offsets', offsets);
    checkWindow('windowOffsets', attrs);
    return [offsets];
  },
  lower: {
    kind: 'map',
    weight: 3,
    at({ e, inputs: [offsets], attrs, int }, index) {
      const at = e.add(e.cast(offsets.at(index), 'index'), [-1, int('start', attrs.start)]);
      return e.cast(e.min(e.max(at, e.index(0)), int('size', attrs.size)), 'int32');
    },
  },
};

/** offsets int32 [E + 1] -> int32 [E + 1]. */
export const windowOffsets = (offsets: Tensor, attrs: WindowAttrs): Tensor => emit1('windowOffsets', [offsets], attrs);
