// The part of a tensor that belongs to this rank. The rank is data, so that all ranks run the same program.
import { checkAxis } from '../checked.ts';
import { ShapeError } from '../../../base/errors.ts';
import { elements, showType, stridesOf } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { checkRanks } from './collective.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    ownPart: OwnPartAttrs;
  }
}

export type OwnPartAttrs = { readonly axis: number; readonly ranks: number };

export const ownPartOp: Op<OwnPartAttrs> = {
  // Elements rank n to rank n + n - 1 along an axis; rank: int32 [].
  name: 'ownPart',
  moves: 'first',
  takes: ['stored'],
  infer([x, rank], { axis, ranks }) {
    checkRanks('ownPart', ranks);
    checkAxis('ownPart', x, axis);
    const size = x.shape[axis];
    if (typeof size !== 'number' || size % ranks !== 0 || rank.dtype !== 'int32' || rank.shape.length !== 0)
      throw new ShapeError(`ownPart: ${showType(x)} along axis ${axis} has no equal parts for ${ranks} ranks`);
    return [{ dtype: x.dtype, shape: x.shape.map((d, i) => (i === axis ? size / ranks : d)) }];
  },
  lower: {
    kind: 'map',
    weight: 1,
    at({ e, inputs: [x, rank], outTypes: [o], attrs: { axis } }, index) {
      const first = e.scale(e.cast(rank.at([]), 'index'), o.shape[axis] as number);
      return x.at(index.map((i, d) => (d === axis ? e.add(first, i) : i)));
    },
  },
  reference({ inputs: [x, [rank]], inTypes: [t], outTypes: [o], attrs: { axis } }) {
    const [step] = stridesOf(o.shape).slice(axis),
      block = step * (o.shape[axis] as number),
      whole = step * (t.shape[axis] as number);
    return [
      Float64Array.from(
        { length: elements(o.shape) },
        (_, i) => x[Math.floor(i / block) * whole + rank * block + (i % block)],
      ),
    ];
  },
};

/** x [.., n ranks, ..] -> [.., n, ..]. rank int32 []. */
export const ownPart = (x: Tensor, rank: Tensor, attrs: OwnPartAttrs): Tensor => emit1('ownPart', [x, rank], attrs);
