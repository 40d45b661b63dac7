// Softmax over the last axis: e^(x - max) / sum(e^(x - max)).
import { ShapeError } from '../../../base/errors.ts';
import { boundOf } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { fromLast, lastAxis } from '../shape/arrange.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    softmax: NoAttrs;
  }
}

export const softmaxOp: Op = {
  // e^x / sum(e^x) over the last axis.
  name: 'softmax',
  keepsRows: true,
  takes: ['floats'],
  infer([x]) {
    if (typeof x.shape[x.shape.length - 1] !== 'number')
      throw new ShapeError('softmax: needs a last dimension of fixed size');
    return [x];
  },
  // dx = y (dy - sum(dy y))
  grad({ outputs: [y], douts: [dout] }) {
    if (!dout) return [null];
    const axes = [y.shape.length - 1],
      dot = emit1('sum', [emit1('mul', [dout, y])], { axes });
    return [emit1('mul', [y, emit1('sub', [dout, emit1('expand', [dot, y], { axes })])])];
  },
  lower: {
    kind: 'map',
    weight: 40,
    passes: 3,
    at({ e, inputs: [x] }, index) {
      const lead = index.slice(0, -1),
        n = boundOf(x.type.shape[lead.length]);
      const max = e.reduce('max', 'lanes', n, (c) => x.at([...lead, c]));
      const power = (c: (typeof index)[number]) => e.op('exp', [e.op('sub', [x.at([...lead, c]), max])]);
      const sum = e.reduce('sum', 'lanes', n, power);
      return e.op('div', [power(index[lead.length]), sum]);
    },
  },
};

/** Softmax over `axis` (the last by default), of x's shape. */
export const softmax = (x: Tensor, axis = -1): Tensor =>
  fromLast(emit1('softmax', [lastAxis('softmax', x, axis)]), axis);
