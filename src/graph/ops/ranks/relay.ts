// A sum that goes on from rank to rank, in two phases: before its own terms a rank gets the sum of the ranks before it,
// and after them it gives the sum to the next one; the last rank's sum is that of all. The terms are thus added in the
// order of the global batch, one rank after the other. A collective.
import { ShapeError } from '../../../base/errors.ts';
import { isFloat } from '../../../base/dtype.ts';
import { byteSize, showType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { acrossRanks } from './collective.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    relay: RelayAttrs;
  }
}

/** phase 'take': before a rank's own terms; 'give': after them. number: which relay of the graph it is, below 4096. */
export type RelayAttrs = { readonly phase: 'take' | 'give'; readonly number: number };

export const relayOp: Op<RelayAttrs> = {
  // take: x on the first rank, else what the rank before gives. give: what the last rank gives.
  name: 'relay',
  takes: ['floats'],
  infer([x], { number }) {
    if (!isFloat(x.dtype) || !(number >= 0 && number < 4096))
      throw new ShapeError(`relay: needs floats and a number below 4096, got ${showType(x)} and ${number}`);
    return [x];
  },
  lower: {
    kind: 'collective',
    ints: ({ inTypes: [x], attrs: { phase, number } }) => [byteSize(x), Number(phase === 'give'), number],
  },
  // Node by node, a rank cannot wait for another one: each adds its terms to x, and the sums are added to each other.
  ...acrossRanks('relay', (calls) => {
    const all = calls.map(({ inputs: [x] }) => x);
    if (calls[0].attrs.phase === 'take') return all.map((x) => [x]);
    const sum = all[0].map((_, i) => all.reduce((total, x) => total + x[i], 0));
    return calls.map(() => [sum]);
  }),
};

/** x -> the same type. Of a sum: x is 0 in phase 'take', and the rank's sum in phase 'give'. */
export const relay = (x: Tensor, attrs: RelayAttrs): Tensor => emit1('relay', [x], attrs);
