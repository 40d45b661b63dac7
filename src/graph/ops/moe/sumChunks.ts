// Partial sums of all elements in chunks of 4096, as a long sum is defined (docs/architecture/lowering.md): the pass
// split-sums.ts uses it, so that threads share a long sum.
import { ShapeError } from '../../../base/errors.ts';
import { elements, isDynamic, showType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, full } from '../../tensor.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    sumChunks: NoAttrs;
  }
}

export const SUM_CHUNK = 4096;

export const sumChunksOp: Op = {
  // Sums of x in chunks of 4096 elements, row-major.
  name: 'sumChunks',
  takes: ['numbers'],
  infer([x]) {
    if (isDynamic(x.shape))
      throw new ShapeError(`sumChunks: the number of elements varies at run time, got ${showType(x)}`);
    return [{ dtype: x.dtype, shape: [Math.ceil(elements(x.shape) / SUM_CHUNK)] }];
  },
  grad: ({ inputs: [x], douts: [dout] }) => {
    if (!dout) return [null];
    // Only a user's graph differentiates it: every element gets the gradient of its chunk.
    const total = elements(x.shape),
      chunks = Math.ceil(total / SUM_CHUNK);
    const like = full(x, [chunks, SUM_CHUNK], 0);
    const wide = emit1('reshape', [emit1('expand', [dout, like], { axes: [1] })], { shape: [chunks * SUM_CHUNK] });
    const cut = chunks * SUM_CHUNK === total ? wide : emit1('slice', [wide], { axis: 0, from: 0, to: total });
    return [emit1('reshape', [cut], { shape: x.shape as number[] })];
  },
  lower: {
    kind: 'map',
    passes: 1,
    at({ e, inputs: [x] }, [chunk]) {
      const total = elements(x.type.shape);
      const size = e.min(e.index(SUM_CHUNK), e.add([-SUM_CHUNK, chunk], total));
      return e.reduce('sum', 'lanes', size, (r) => x.linear(e.add([SUM_CHUNK, chunk], r)));
    },
  },
};
