// permute for choices that have mostly not changed since they were sorted: the earlier result is then reused in its
// memory.
import { ShapeError } from '../../../base/errors.ts';
import { elements, sameShape, showType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit, type Tensor } from '../../tensor.ts';
import { choiceStarts } from './choiceStarts.ts';
import { histogram, unlessKnown } from './histogram.ts';
import { checkStarts, permuteOp, rangesIn, sortRange, type Permutation, type PermuteAttrs } from './permute.ts';
import { rangesOf } from './ranges.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    permuteUnless: PermuteAttrs;
  }
}

export const permuteUnlessOp: Op<PermuteAttrs> = {
  // The four results of permute that are given where every sample is known, else permute of the first input.
  name: 'permuteUnless',
  countsAreInBounds: true,
  inPlaceOf: [1, 2, 3, 4],
  infer([x, ...rest], attrs, ids) {
    const types = permuteOp.infer([x], attrs, ids),
      known = rest[4];
    if (
      !types.every((t, i) => rest[i].dtype === t.dtype && sameShape(rest[i].shape, t.shape)) ||
      known.dtype !== 'int32' ||
      known.shape.length !== 1
    ) {
      throw new ShapeError(
        `permuteUnless: needs what permute makes of ${showType(x)}, and int32 [samples]; got ` +
          `${rest.map(showType).join(', ')}`,
      );
    }
    checkStarts('permuteUnless', rest[5], attrs.experts);
    return types;
  },
  lower: {
    kind: 'loops',
    update: true,
    build(call) {
      const { inputs, inTypes } = call;
      return {
        grid: { extent: rangesIn(inTypes[6]), work: null },
        body: (g) => unlessKnown(call, inputs[5], inTypes[5], sortRange(call, g, inputs[6], inTypes[6])),
      };
    },
  },
};

/**
 * indices int32 [T, k]; sorted: the result of permute for choices that are the same if known int32 [samples] is 1 for
 * all.
 */
export function permuteUnless(
  indices: Tensor,
  sorted: Permutation,
  known: Tensor,
  experts: number,
  ranges = rangesOf(elements(indices.shape), experts),
): Permutation {
  const starts = ranges > 1 ? [choiceStarts(histogram(indices, known, { experts, ranges }))] : [],
    [offsets, order, inverse, expert] = emit(
      'permuteUnless',
      [indices, sorted.offsets, sorted.order, sorted.inverse, sorted.expert, known, ...starts],
      { experts },
    );
  return { choices: indices, offsets, order, inverse, expert };
}
