// topK that skips rows whose best elements are known already: for such a row, k numbers are copied, and the row is not
// searched.
import { isFloat } from '../../../base/dtype.ts';
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, showType } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { sortedList } from '../reduce/sortedList.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    topKUnless: NoAttrs;
  }
}

const WORK = 128; // of a row, in elements

export const topKUnlessOp: Op = {
  // Given where the row's sample is known, else the indices of the k largest of the row, descending, ties to the lower
  // index.
  name: 'topKUnless',
  keepsRows: true,
  takes: ['floats'],
  infer([x, given, known]) {
    const [rows, width] = x.shape.map(boundOf),
      [, k] = given.shape.map(boundOf);
    if (x.shape.length !== 2 || !isFloat(x.dtype) || typeof x.shape[0] !== 'number')
      throw new ShapeError(`topKUnless: needs float rows [T, E], got ${showType(x)}`);
    if (given.dtype !== 'int32' || given.shape.length !== 2 || given.shape[0] !== rows || !(k >= 1 && k <= width))
      throw new ShapeError(`topKUnless: needs int32 [${rows}, k] with k from 1 to ${width}, got ${showType(given)}`);
    if (known.dtype !== 'int32' || known.shape.length !== 1 || !(rows === 0 || rows % boundOf(known.shape[0]) === 0))
      throw new ShapeError(`topKUnless: needs int32 [samples] that divide ${rows} rows, got ${showType(known)}`);
    return [given];
  },
  lower: {
    kind: 'loops',
    build({ e, k: w, inTypes: [type, tg, tk], inputs: [x, given, known], outputs: [indices] }) {
      const [rows, width] = type.shape.map(boundOf),
        k = boundOf(tg.shape[1]),
        { dtype } = type,
        tokens = rows / Math.max(1, boundOf(tk.shape[0]));
      return {
        grid: { extent: rows, work: WORK },
        body(row) {
          const list = sortedList({ e, k: w }, dtype, k, 1),
            zero = e.const(0, 'int32');
          const is = w.load(known, e.div(row, tokens)),
            to = (j: Expr): Expr => e.add([k, row], j);
          return [
            w.when(e.op('ne', [is, zero]), [w.loop(k, (j) => [w.store(indices, to(j), w.load(given, to(j)))])]),
            w.when(e.eq(is, zero), [
              list.clear,
              w.loop(width, (c) => list.consider(w.load(x, e.add([width, row], c)), c)),
              w.loop(k, (j) => [w.store(indices, to(j), list.at(j, e.index(0)))]),
            ]),
          ];
        },
      };
    },
  },
};

/** x [T, E], given int32 [T, k], known int32 [samples], each of T / samples rows -> int32 [T, k]. */
export const topKUnless = (x: Tensor, given: Tensor, known: Tensor): Tensor => emit1('topKUnless', [x, given, known]);
