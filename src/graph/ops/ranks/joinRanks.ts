// The sum over ranks, on every rank: a sum in parts (base/parts.ts) of which each rank has computed some. Ranks are
// joined as a tree, ((r0 + r1) + (r2 + r3)) + ..., which continues the tree of each rank's own parts. A collective.
import { ShapeError } from '../../../base/errors.ts';
import { isFloat } from '../../../base/dtype.ts';
import { elements, showType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { acrossRanks, checkRanks } from './collective.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    joinRanks: JoinRanksAttrs;
  }
}

export type JoinRanksAttrs = { readonly ranks: number };

export const joinRanksOp: Op<JoinRanksAttrs> = {
  // The sum over ranks, as a tree.
  name: 'joinRanks',
  takes: ['floats'],
  infer([x], { ranks }) {
    checkRanks('joinRanks', ranks);
    if (!isFloat(x.dtype) || !Number.isInteger(Math.log2(ranks)))
      throw new ShapeError(`joinRanks: needs floats and a power of two of ranks, got ${showType(x)} on ${ranks}`);
    return [x];
  },
  lower: { kind: 'collective', ints: ({ inTypes: [x] }) => [elements(x.shape), x.dtype === 'float64' ? 1 : 0] },
  ...acrossRanks('joinRanks', (calls) => {
    let sums = calls.map(({ inputs: [x] }) => x);
    while (sums.length > 1)
      sums = Array.from({ length: sums.length / 2 }, (_, i) => sums[2 * i].map((v, j) => v + sums[2 * i + 1][j]));
    return calls.map(() => [sums[0]]);
  }),
};

/** x of this rank -> the sum over all ranks. */
export const joinRanks = (x: Tensor, attrs: JoinRanksAttrs): Tensor => emit1('joinRanks', [x], attrs);
