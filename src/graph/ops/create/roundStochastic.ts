// Stochastic rounding to bfloat16: to the number below or above, each the likelier the nearer it is, so that the mean
// of many roundings is the number itself. Updates that are smaller than half a step of bfloat16 then still count (Gupta
// et al. 2015, section 3; Zamirai et al. 2020). The random bits depend only on (seed, key, step, the element's
// row-major index), by Threefry, and never on the order of execution.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, elements, showType } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { MapCall, Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { checkKey } from '../checked.ts';
import { checkVector } from '../moe/routing.ts';
import { lowerByIndex } from './by-index.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    roundStochastic: RoundAttrs;
  }
}

/**
 * key: distinguishes these random words from others with the same seed and step. half: which 16 bits of the word are
 * used, the lower (0) or the upper (1), so that one word serves two roundings.
 */
export type RoundAttrs = { readonly key: number; readonly half: number };

export const KEPT = -0x10000; // the upper 16 bits of a float32: its bfloat16

function element(call: MapCall<RoundAttrs>, x: Expr, linear: Expr): Expr {
  const {
    e,
    inputs: [, seed, step],
    attrs: { key, half },
    int,
  } = call;
  const counter = [e.cast(int('key', key), 'uint32'), step.at([]), indexOf(call, linear)];
  const word = e.op('threefry', [seed.at([]), ...counter]);
  const random = half
    ? e.op('shr', [word, e.const(16, 'uint32')])
    : e.op('and', [word, e.const(0xffff, 'uint32')], 'uint32');
  const bits = e.op('bitcast', [x], 'int32'),
    upper = (b: Expr): Expr => e.op('bitcast', [e.op('and', [b, e.const(KEPT, 'int32')], 'int32')], 'float32');
  const rounded = upper(e.op('add', [bits, e.cast(random, 'int32')]));
  // Beyond the largest bfloat16 there is none above: it is rounded down. What is not finite stays as it is.
  const finite = e.select(e.op('isfinite', [rounded]), rounded, upper(bits));
  return e.select(e.op('isfinite', [x]), finite, x);
}

/** The row-major index in the whole tensor, of which x has the rows that the input `rows` names. */
export function indexOf({ e, inputs, outTypes: [type] }: MapCall<RoundAttrs>, linear: Expr): Expr {
  const rows = inputs.length > 3 ? inputs[3] : null,
    own = e.cast(linear, 'uint32');
  if (!rows) return own;
  const size = elements(type.shape.slice(1)),
    row = e.cast(rows.at([e.div(linear, size)]), 'uint32');
  return e.op('add', [e.op('mul', [row, e.const(size, 'uint32')]), e.cast(e.mod(linear, size), 'uint32')]);
}

export const roundStochasticOp: Op<RoundAttrs> = {
  // x as one of the two nearest bfloat16, still of float32, by a random word for (seed, key, step, index); rows int32,
  // if they are given: the rows of a whole tensor that x has.
  name: 'roundStochastic',
  takes: ['floats'],
  infer([x, seed, step, rows], { key, half }) {
    checkKey('roundStochastic', key);
    if (rows) checkVector('roundStochastic', 'rows', rows, boundOf(x.shape[0] ?? 0));
    const words = [seed, step];
    if (x.dtype !== 'float32' || !words.every((t) => t.dtype === 'uint32' && t.shape.length === 0)) {
      const got = [x, ...words].map(showType).join(', ');
      throw new ShapeError(`roundStochastic: needs float32, and uint32 [] for seed and step, got ${got}`);
    }
    if (half !== 0 && half !== 1) throw new ShapeError(`roundStochastic: half must be 0 or 1, got ${half}`);
    return [x];
  },
  noGrad: 'it rounds new values of parameters, which have no gradients',
  lower: lowerByIndex(90, element),
};

/**
 * x as one of the two nearest bfloat16, at random: the mean is x. x float32, seed and step uint32 [] -> float32, which
 * a cast to bfloat16 keeps. `key` (uint32) and `half` (0 or 1) distinguish this rounding from others.
 */
export const roundStochastic = (x: Tensor, seed: Tensor, step: Tensor, { key, half }: RoundAttrs): Tensor =>
  emit1('roundStochastic', [x, seed, step], { key: key >>> 0, half });
