// Dropout: each element becomes 0 with probability `rate`, else x / (1 - rate). The choice depends only on (seed, key,
// step, the element's row-major index), by Threefry: the gradient recomputes the mask, which is never stored.
import { ShapeError } from '../../../base/errors.ts';
import { isFloat } from '../../../base/dtype.ts';
import { showType, type TensorType } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { MapCall, Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { checkKey } from '../checked.ts';
import { lowerByIndex } from './by-index.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    dropout: DropoutAttrs;
  }
}

export type DropoutAttrs = { readonly rate: number; readonly key: number };

/**
 * An element is kept if the upper 24 bits of its random word are not below this number: unit24(word) >= rate, in
 * integers.
 */
export const threshold = (rate: number): number => Math.ceil(rate * 0x1000000);

const isWord = (t: TensorType): boolean => t.dtype === 'uint32' && t.shape.length === 0;

function element(call: MapCall<DropoutAttrs>, x: Expr, linear: Expr): Expr {
  const {
    e,
    inputs: [
      {
        type: { dtype },
      },
      seed,
      step,
      first,
    ],
    attrs: { rate, key },
  } = call;
  const own = e.cast(linear, 'uint32');
  const index = call.inputs.length > 3 ? e.op('add', [own, first.at([])]) : own;
  const counter = [e.cast(call.int('key', key), 'uint32'), step.at([]), index];
  const word = e.op('threefry', [seed.at([]), ...counter]);
  const kept = e.le(e.const(threshold(rate), 'uint32'), e.op('shr', [word, e.const(8, 'uint32')]));
  return e.select(kept, e.op('mul', [x, e.const(1 / (1 - rate), dtype)]), e.const(0, dtype));
}

export const dropoutOp: Op<DropoutAttrs> = {
  // x / (1 - rate) or 0, by a random word for (seed, key, step, index); the index of the first element is 0, or given.
  name: 'dropout',
  keepsRows: true,
  infer([x, ...words], { rate, key }) {
    checkKey('dropout', key);
    if (!isFloat(x.dtype) || !words.every(isWord)) {
      const got = [x, ...words].map(showType).join(', ');
      throw new ShapeError(`dropout: needs floats and uint32 [] for seed, step and first, got ${got}`);
    }
    if (!(rate >= 0 && rate < 1)) throw new ShapeError(`dropout: the rate must be at least 0 and below 1, got ${rate}`);
    return [x];
  },
  grad: ({ inputs: [, ...words], douts: [dout], attrs }) => [
    dout && emit1('dropout', [dout, ...words], attrs),
    ...words.map(() => null),
  ],
  lower: lowerByIndex(90, element),
};

/**
 * Sets elements to 0 with probability `rate`, and multiplies the others by 1 / (1 - rate). seed and step are uint32 [];
 * `key` (uint32) distinguishes this dropout from others; first (uint32 [], default 0): the index of the first element.
 * `Trace.random` gives all four.
 */
export const dropout = (x: Tensor, seed: Tensor, step: Tensor, { rate, key }: DropoutAttrs, first?: Tensor): Tensor =>
  rate === 0 ? x : emit1('dropout', [x, seed, step, ...(first ? [first] : [])], { rate, key: key >>> 0 });
