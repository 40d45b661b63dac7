// groupedOuter that continues sums that were begun before, in their memory: the same chain of fused multiply-adds as if
// all rows had come at once. Segments without rows are not touched. Four rows of the result and four steps of the depth
// are computed together, so that sums are loaded and stored once in four steps.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, sameDim, sameShape, showType } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Op } from '../../op.ts';
import { emit1 } from '../../tensor.ts';
import { checkVector, segmentsOf } from '../moe/routing.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    groupedOuterOnto: NoAttrs;
  }
}

const STEPS = 4;

export const groupedOuterOntoOp: Op = {
  // Before + per segment the sum over its rows of x[r]^T y[r], summed onto it one by one.
  name: 'groupedOuterOnto',
  takes: ['floats'],
  inPlaceOf: 3,
  infer([x, y, offsets, before]) {
    const { segments } = segmentsOf('groupedOuterOnto', x);
    checkVector('groupedOuterOnto', 'offsets', offsets, segments + 1);
    if (
      x.shape.length !== 2 ||
      y.shape.length !== 2 ||
      !sameDim(x.shape[0], y.shape[0]) ||
      x.dtype !== y.dtype ||
      x.dtype !== before.dtype ||
      !sameShape(before.shape, [segments, x.shape[1], y.shape[1]])
    ) {
      throw new ShapeError(
        `groupedOuterOnto: ${showType(x)} and ${showType(y)} are not rows of the same segments, ` +
          `whose products add to ${showType(before)}`,
      );
    }
    return [before];
  },
  grad({ inputs: [x, y], douts: [d], needs }) {
    if (!d) return [null, null, null, null];
    return [
      needs[0] ? emit1('groupedMatmul', [y, d], { transB: true }) : null,
      needs[1] ? emit1('groupedMatmul', [x, d], { transB: false }) : null,
      null,
      d,
    ];
  },
  lower: {
    kind: 'loops',
    update: true,
    build({ e, k: w, inputs: [x, y, offsets], outputs: [out], inTypes: [tx, ty] }) {
      const { segments } = segmentsOf('groupedOuterOnto', tx),
        M = boundOf(tx.shape[1]),
        N = boundOf(ty.shape[1]),
        { dtype } = tx;
      const tall = [4, 3, 2, 1].find((n) => M % n === 0) ?? 1,
        blocks = M / tall;
      const any = e.min(w.extent(tx, 0), e.index(1)); // without rows there are no tasks
      return {
        grid: { extent: e.scale(any, segments * blocks), work: null },
        body(g) {
          const z = e.div(g, blocks),
            i = e.scale(e.mod(g, blocks), tall),
            from = w.scalar('index'),
            count = w.scalar('index');
          const a = Array.from({ length: tall * STEPS }, () => w.scalar(dtype));
          const at = (r: number, j: Expr): Expr => e.add([M * N, z], [N, i], j, r * N);
          /** Rows k to k + steps - 1 of x and y. */
          const some = (k: Expr, steps: number) => [
            ...Array.from({ length: tall * steps }, (_, n) =>
              a[n].set(w.load(x, e.add([M, from.get()], [M, k], i, Math.floor(n / tall) * M + (n % tall)))),
            ),
            w.vector(N, (j) =>
              Array.from({ length: tall }, (_, r) => {
                let sum = w.load(out, at(r, j));
                for (let s = 0; s < steps; s++)
                  sum = e.op('fma', [a[s * tall + r].get(), w.load(y, e.add([N, from.get()], [N, k], j, s * N)), sum]);
                return w.store(out, at(r, j), sum);
              }),
            ),
          ];
          return [
            from.set(w.loadIndex(offsets, z)),
            count.set(e.add(w.loadIndex(offsets, e.add(z, e.index(1))), [-1, from.get()])),
            w.loop(e.div(count.get(), STEPS), (q) => some(e.scale(q, STEPS), STEPS)),
            w.loop(e.mod(count.get(), STEPS), (q) => some(e.add(count.get(), [-1, e.mod(count.get(), STEPS)], q), 1)),
          ];
        },
      };
    },
  },
};
