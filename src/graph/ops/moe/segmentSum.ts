// Sums the rows of each segment: the gradient of segmentExpand. Rows ascending, one by one, as in the products
// (groupedOuter), so that later rows can continue a sum (segmentSumOnto). A task has some columns of one segment.
import { boundOf, elements } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { LoopCall, LoopSpec, Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { checkVector, segmentsOf } from './routing.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    segmentSum: NoAttrs;
  }
}

const COLUMNS = 64;

/** Inputs: rows, (expert), offsets. onto: sums start from what the result's memory holds; otherwise from 0. */
export function sumSegments(
  { e, k: w, inTypes: [tx], inputs: [x, , offsets], outTypes: [o], outputs: [out] }: LoopCall,
  onto: boolean,
): LoopSpec {
  const width = elements(tx.shape.slice(1)),
    blocks = Math.ceil(width / COLUMNS),
    { dtype } = tx,
    all = boundOf(o.shape[0]) * blocks;
  // Without rows there is nothing to do.
  const extent = onto ? e.scale(e.min(w.extent(tx, 0), e.index(1)), all) : all;
  return {
    grid: { extent, work: null },
    body(g) {
      const segment = e.div(g, blocks),
        column = e.scale(e.mod(g, blocks), COLUMNS);
      const live = width % COLUMNS === 0 ? e.index(COLUMNS) : e.min(e.index(COLUMNS), e.add([-1, column], width));
      const from = w.scalar('index'),
        count = w.scalar('index'),
        total = w.array(dtype, COLUMNS);
      const at = (c: Expr): Expr => e.add([width, segment], column, c);
      return [
        from.set(w.loadIndex(offsets, segment)),
        count.set(e.add(w.loadIndex(offsets, e.add(segment, e.index(1))), [-1, from.get()])),
        onto ? w.vector(live, (c) => [total.set(c, w.load(out, at(c)))]) : total.fill(0),
        w.loop(count.get(), (r) => [
          w.vector(live, (c) => [
            total.set(c, e.op('add', [total.at(c), w.load(x, e.add([width, from.get()], [width, r], column, c))])),
          ]),
        ]),
        w.vector(live, (c) => [w.store(out, at(c), total.at(c))]),
      ];
    },
  };
}

export const segmentSumOp: Op = {
  // Sum of the rows of each segment; expert serves the gradient.
  name: 'segmentSum',
  takes: ['numbers'],
  unread: [1],
  infer([x, expert, offsets]) {
    const { bound, segments } = segmentsOf('segmentSum', x);
    checkVector('segmentSum', 'expert', expert, bound);
    checkVector('segmentSum', 'offsets', offsets, segments + 1);
    return [{ dtype: x.dtype, shape: [segments, ...x.shape.slice(1)] }];
  },
  grad: ({ inputs: [x, expert], douts: [d] }) => [d && emit1('segmentExpand', [d, expert, x]), null, null],
  lower: { kind: 'loops', build: (call) => sumSegments(call, false) },
};

/** rows [rows in E segments, ...rest], results of `permute` -> [E, ...rest]. */
export const segmentSum = (rows: Tensor, expert: Tensor, offsets: Tensor): Tensor =>
  emit1('segmentSum', [rows, expert, offsets]);
