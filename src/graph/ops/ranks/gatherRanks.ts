// The parts of all ranks, one after the other: what each rank has along the first dimension becomes the whole tensor,
// on every rank. A collective (MPI_Allgather).
import { ShapeError } from '../../../base/errors.ts';
import { byteSize, showType, type Axis } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { acrossRanks, checkRanks } from './collective.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    gatherRanks: GatherRanksAttrs;
  }
}

/** axis: what the first dimension of the parts goes over. */
export type GatherRanksAttrs = { readonly ranks: number; readonly axis: Axis };

export const gatherRanksOp: Op<GatherRanksAttrs> = {
  // The rows of rank 0, then those of rank 1, and so on.
  name: 'gatherRanks',
  moves: 'first',
  takes: ['stored'],
  infer([x], { ranks }) {
    checkRanks('gatherRanks', ranks);
    const [rows] = x.shape;
    if (typeof rows !== 'number')
      throw new ShapeError(`gatherRanks: needs a first dimension of a fixed size, got ${showType(x)}`);
    return [{ dtype: x.dtype, shape: [rows * ranks, ...x.shape.slice(1)] }];
  },
  lower: { kind: 'collective', ints: ({ inTypes: [x] }) => [byteSize(x)] },
  ...acrossRanks('gatherRanks', (calls) => {
    const [first] = calls[0].inputs,
      all = new Float64Array(first.length * calls.length);
    calls.forEach(({ inputs: [x] }, r) => {
      all.set(x, r * first.length);
    });
    return calls.map(() => [all]);
  }),
};

/** x [rows of this rank, ...rest] -> [rows of all ranks, ...rest]. */
export const gatherRanks = (x: Tensor, attrs: GatherRanksAttrs): Tensor => emit1('gatherRanks', [x], attrs);
