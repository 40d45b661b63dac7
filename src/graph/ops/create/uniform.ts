// Random numbers in [0, 1), 24 bits each, by Threefry: element i depends only on (seed, key, step, i), not on the order
// of execution.
import { ShapeError } from '../../../base/errors.ts';
import { showType, stridesOf, type TensorType } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { MapCall, Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { checkKey } from '../checked.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    uniform: UniformAttrs;
  }
}

/** key: distinguishes these numbers from others with the same seed and step. */
export type UniformAttrs = { readonly key: number };

function element({ e, inputs, attrs: { key }, int }: MapCall<UniformAttrs>, linear: Expr): Expr {
  const [, seed, step, first] = inputs,
    own = e.cast(linear, 'uint32');
  const index = inputs.length > 3 ? e.op('add', [own, first.at([])]) : own;
  const counter = [e.cast(int('key', key), 'uint32'), step.at([]), index];
  const bits = e.op('shr', [e.op('threefry', [seed.at([]), ...counter]), e.const(8, 'uint32')]);
  return e.op('mul', [e.cast(bits, 'float32'), e.const(2 ** -24, 'float32')]);
}

export const uniformOp: Op<UniformAttrs> = {
  // a random number in [0, 1) for each element of like, whose values are not read; the first's index is 0, or given.
  name: 'uniform',
  keepsRows: true,
  takes: ['stored'],
  unread: [0],
  infer([like, ...words], { key }): TensorType[] {
    checkKey('uniform', key);
    if (!words.every((t) => t.dtype === 'uint32' && t.shape.length === 0)) {
      throw new ShapeError(`uniform: seed, step and first must be uint32 [], got ${words.map(showType).join(', ')}`);
    }
    return [{ dtype: 'float32', shape: like.shape }];
  },
  grad: ({ inputs }) => inputs.map(() => null),
  lower: {
    kind: 'map',
    weight: 80,
    at(call, index) {
      const strides = stridesOf(call.outTypes[0].shape);
      return element(
        call,
        call.e.linear(
          0,
          index.map((i, d) => [strides[d], i]),
        ),
      );
    },
    linear: element,
  },
};

/** like [...] (its values are not read), seed and step uint32 [] -> float32 [...]. first (uint32 [], default 0): the
 * index of the first element. `Trace.random` gives all. */
export const uniform = (like: Tensor, seed: Tensor, step: Tensor, { key }: UniformAttrs, first?: Tensor): Tensor =>
  emit1('uniform', [like, seed, step, ...(first ? [first] : [])], { key: key >>> 0 });
