// Sends tokens to experts: the rows of all experts one after the other, each a copy of its token. Never a pass of its own where a
// matrix product reads it: the product gathers its rows while it packs them.
import { ShapeError } from '../../base/errors.ts';
import { boundOf, elements, showType } from '../../base/shape.ts';
import type { Op } from '../op.ts';
import { emit1, type Tensor } from '../tensor.ts';
import { checkVector, indexAt, rowsDim } from './routing.ts';

/** k: choices per token. */
export type DispatchAttrs = { readonly k: number };

export const dispatchOp: Op<DispatchAttrs> = {
  name: 'dispatch', doc: 'row r = x[order[r] / k], in the segments of offsets; inverse serves the gradient', unread: [2, 3],
  infer([x, order, offsets, inverse], { k }, ids) {
    const rows = rowsDim('dispatch', order, offsets, ids[2]);
    checkVector('dispatch', 'inverse', inverse, rows.bound);
    if (x.shape.length === 0 || boundOf(x.shape[0]) * k !== rows.bound) {
      throw new ShapeError(`dispatch: ${showType(x)} with ${k} choices a row does not make ${rows.bound} rows`);
    }
    return [{ dtype: x.dtype, shape: [rows, ...x.shape.slice(1)] }];
  },
  grad: ({ inputs: [x, order, , inverse], douts: [d], attrs }) => [d && emit1('collect', [d, inverse, order, x], attrs), null, null, null],
  lower: { kind: 'map', weight: 0, at(call, [r, ...rest]) {
    const { inputs: [x, order], attrs: { k } } = call;
    return x.at([call.e.div(indexAt(call, order, [r]), k), ...rest]);
  } },
  reference({ inputs: [x, order], inTypes: [t], outTypes: [o], attrs: { k }, rows }) {
    const width = elements(t.shape.slice(1)), out = new Float64Array(elements(o.shape)).fill(NaN);
    for (let r = 0; r < rows(o); r++) {
      const token = Math.floor(order[r] / k);
      out.set(x.subarray(token * width, (token + 1) * width), r * width);
    }
    return [out];
  },
};

/** x [T, ...rest], the results of `permute` -> [T * k in segments, ...rest]. */
export const dispatch = (x: Tensor, order: Tensor, offsets: Tensor, inverse: Tensor, { k }: DispatchAttrs): Tensor =>
  emit1('dispatch', [x, order, offsets, inverse], { k });
