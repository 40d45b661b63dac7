// Random numbers in [0, 1), 24 bits each, by Threefry: element i is a function of (seed, key, step, i) alone, whatever the schedule.
import { ShapeError } from '../../base/errors.ts';
import { threefry, unit24 } from '../../base/random.ts';
import { elements, showType, stridesOf, type TensorType } from '../../base/shape.ts';
import type { Expr } from '../../kernel/expr.ts';
import type { MapCall, Op } from '../op.ts';
import { emit1, type Tensor } from '../tensor.ts';

/** key: tells these numbers from others of the same seed and step. */
export type UniformAttrs = { readonly key: number };

function element({ e, inputs: [, seed, step], attrs: { key }, int }: MapCall<UniformAttrs>, linear: Expr): Expr {
  const counter = [e.op('cast', [int('key', key)], 'uint32'), step.at([]), e.op('cast', [linear], 'uint32')];
  const bits = e.op('shr', [e.op('threefry', [seed.at([]), ...counter], 'uint32'), e.const(8, 'uint32')], 'uint32');
  return e.op('mul', [e.op('cast', [bits], 'float32'), e.const(2 ** -24, 'float32')], 'float32');
}

export const uniformOp: Op<UniformAttrs> = {
  // a random number in [0, 1) for each element of like, whose values are not read.
  name: 'uniform', takes: ['stored'], unread: [0],
  infer([like, seed, step]): TensorType[] {
    const word = (t: TensorType): boolean => t.dtype === 'uint32' && t.shape.length === 0;
    if (!word(seed) || !word(step)) throw new ShapeError(`uniform: seed and step must be uint32 [], got ${showType(seed)} and ${showType(step)}`);
    return [{ dtype: 'float32', shape: like.shape }];
  },
  grad: () => [null, null, null],
  lower: { kind: 'map', weight: 80,
    at(call, index) {
      const strides = stridesOf(call.outTypes[0].shape);
      return element(call, call.e.linear(0, index.map((i, d) => [strides[d], i])));
    },
    linear: element },
  reference: ({ inputs: [, [seed], [step]], outTypes: [type], attrs: { key } }) =>
    [Float64Array.from({ length: elements(type.shape) }, (_, i) => unit24(threefry(seed, key, step, i)[0]))],
};

/** like [...] (its values are not read), seed and step uint32 [] -> float32 [...]. */
export const uniform = (like: Tensor, seed: Tensor, step: Tensor, { key }: UniformAttrs): Tensor => emit1('uniform', [like, seed, step], { key: key >>> 0 });
