// What the ops of ranks share. The reference of those that exchange data needs the inputs of all ranks at once.
import { ShapeError, VerifyError } from '../../../base/errors.ts';
import type { Attrs } from '../../graph.ts';
import type { Op, RefCall } from '../../op.ts';

/** Throws ShapeError for what is no number of ranks. */
export function checkRanks(op: string, ranks: number): void {
  if (!Number.isInteger(ranks) || ranks < 1) throw new ShapeError(`${op}: there are no ${String(ranks)} ranks`);
}

/** all: the results of each rank, from the calls of all ranks in their order. */
export const acrossRanks = <A extends Attrs>(
  name: string,
  all: (calls: readonly RefCall<A>[]) => Float64Array[][],
): Pick<Op<A>, 'reference' | 'referenceOfRanks'> => ({
  referenceOfRanks: all,
  reference: () => {
    throw new VerifyError('reference', `${name} needs the inputs of all ranks: referenceOfRanks`);
  },
});
