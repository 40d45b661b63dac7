// How many rows each expert may get, where the number of tokens is known only at run time. In float64 and in the order
// of the host's formula (nn/moe/capacity.ts), so both give the same integers.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, showType, type TensorType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    expertCapacity: ExpertCapacityAttrs;
  }
}

/** share: among how many experts the choices are divided evenly. */
export type ExpertCapacityAttrs = { readonly share: number };

export const expertCapacityOp: Op<ExpertCapacityAttrs> = {
  // min(tokens, ceil(factor * tokens * k / share)) for each factor; the choices [tokens, k] are not read.
  name: 'expertCapacity',
  unread: [1],
  infer([factors, choices], { share }): TensorType[] {
    if (factors.dtype !== 'float64' || factors.shape.length !== 1)
      throw new ShapeError(`expertCapacity: factors must be float64[experts], got ${showType(factors)}`);
    if (choices.shape.length !== 2)
      throw new ShapeError(`expertCapacity: choices must be [tokens, k], got ${showType(choices)}`);
    if (!Number.isInteger(share) || share < 1 || share > 2 ** 31 - 1)
      throw new ShapeError(`expertCapacity: choices are divided among 1 to 2147483647 experts, got ${share}`);
    return [{ dtype: 'int32', shape: factors.shape }];
  },
  lower: {
    kind: 'map',
    weight: 8,
    at(call, index) {
      const {
          e,
          inputs: [factors, { type }],
          attrs: { share },
        } = call,
        wide = (n: number | ReturnType<typeof factors.at>) =>
          typeof n === 'number' ? e.const(n, 'float64') : e.cast(n, 'float64'),
        tokens = wide(call.extent(type, 0)),
        choices = e.op('mul', [tokens, wide(boundOf(type.shape[1]))]),
        even = e.op('div', [e.op('mul', [factors.at(index), choices]), wide(call.int('share', share))]),
        up = e.op('neg', [e.op('floor', [e.op('neg', [even])])]);
      return e.cast(e.op('min', [tokens, up]), 'int32');
    },
  },
};

/** factors float64 [experts] of at least 0, choices [tokens, k] -> int32 [experts]. */
export const expertCapacity = (factors: Tensor, choices: Tensor, attrs: ExpertCapacityAttrs): Tensor =>
  emit1('expertCapacity', [factors, choices], attrs);
