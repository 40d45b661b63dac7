// Sums the rows of each segment: the gradient of segmentExpand. Rows ascending, in chunks of 4096 that are joined in order; a task
// owns some columns of one segment.
import { boundOf, elements } from '../../base/shape.ts';
import type { Expr } from '../../kernel/expr.ts';
import type { Op } from '../op.ts';
import { emit1, type Tensor } from '../tensor.ts';
import { checkVector, segmentsOf } from './routing.ts';
import { SUM_CHUNK } from './sumChunks.ts';

const COLUMNS = 64;

export const segmentSumOp: Op = {
  name: 'segmentSum', doc: 'sum of the rows of each segment; expert serves the gradient', unread: [1],
  infer([x, expert, offsets]) {
    const { bound, segments } = segmentsOf('segmentSum', x);
    checkVector('segmentSum', 'expert', expert, bound);
    checkVector('segmentSum', 'offsets', offsets, segments + 1);
    return [{ dtype: x.dtype, shape: [segments, ...x.shape.slice(1)] }];
  },
  grad: ({ inputs: [x, expert], douts: [d] }) => [d && emit1('segmentExpand', [d, expert, x]), null, null],
  lower: { kind: 'loops', build({ e, k: w, inTypes: [tx], inputs: [x, , offsets], outTypes: [o], outputs: [out] }) {
    const width = elements(tx.shape.slice(1)), blocks = Math.ceil(width / COLUMNS), { dtype } = tx;
    return { grid: { extent: boundOf(o.shape[0]) * blocks, grain: 1 }, body(g) {
      const segment = e.div(g, blocks), column = e.scale(e.mod(g, blocks), COLUMNS);
      const live = width % COLUMNS === 0 ? e.index(COLUMNS) : e.op('min', [e.index(COLUMNS), e.linear(width, [[-1, column]])], 'index');
      const from = w.scalar('index'), count = w.scalar('index'), total = w.array(dtype, COLUMNS), part = w.array(dtype, COLUMNS);
      const add = (a: Expr, b: Expr): Expr => e.op('add', [a, b], dtype);
      return [
        from.set(w.loadIndex(offsets, segment)),
        count.set(e.linear(0, [[1, w.loadIndex(offsets, e.add(segment, e.index(1)))], [-1, from.get()]])),
        total.fill(0),
        w.loop(e.div(e.add(count.get(), e.index(SUM_CHUNK - 1)), SUM_CHUNK), (chunk) => [
          part.fill(0),
          w.loop(e.op('min', [e.index(SUM_CHUNK), e.linear(0, [[1, count.get()], [-SUM_CHUNK, chunk]])], 'index'), (r) => [
            w.vector(live, (c) => [part.set(c, add(part.at(c),
              w.load(x, e.linear(0, [[width, from.get()], [width * SUM_CHUNK, chunk], [width, r], [1, column], [1, c]]))))])]),
          w.vector(live, (c) => [total.set(c, add(total.at(c), part.at(c)))])]),
        w.vector(live, (c) => [w.store(out, e.linear(0, [[width, segment], [1, column], [1, c]]), total.at(c))])];
    } };
  } },
  reference(call) {
    const { inputs: [x], inTypes: [t], outTypes: [o] } = call, offsets = call.offsets(t);
    const width = elements(o.shape.slice(1)), out = new Float64Array(elements(o.shape));
    for (let z = 0; z < boundOf(o.shape[0]); z++) {
      for (let r = offsets[z]; r < offsets[z + 1]; r++) for (let i = 0; i < width; i++) out[z * width + i] += x[r * width + i];
    }
    return [out];
  },
};

/** rows [rows in E segments, ...rest], results of `permute` -> [E, ...rest]. */
export const segmentSum = (rows: Tensor, expert: Tensor, offsets: Tensor): Tensor => emit1('segmentSum', [rows, expert, offsets]);
