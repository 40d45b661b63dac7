// The gradient of avgPool2d: each place of the image gathers its share of the few outputs whose window covers it, in
// the order of their taps.
import type { Op } from '../../op.ts';
import { emit1 } from '../../tensor.ts';
import { covered, type AvgPoolAttrs } from './avgPool2d.ts';
import { checkPooled, lookers, poolAxes, unpooled, type PoolGradAttrs } from './pooling.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    avgPool2dGrad: AvgPoolAttrs & PoolGradAttrs;
  }
}

export const avgPool2dGradOp: Op<AvgPoolAttrs & PoolGradAttrs> = {
  // For each place, the sum over the windows that cover it of dy divided by what the window is divided by.
  name: 'avgPool2dGrad',
  keepsRows: true,
  takes: ['floats'],
  infer([dy], attrs) {
    const x = unpooled(dy, attrs.size);
    checkPooled('avgPool2dGrad', dy, poolAxes('avgPool2dGrad', x, attrs));
    return [x];
  },
  grad: ({ douts: [u], attrs: { size: _, ...attrs } }) => [u && emit1('avgPool2d', [u], attrs)],
  lower: {
    kind: 'map',
    weight: 6,
    at({ e, inputs: [dy], outTypes: [x], attrs }, [n, h, v, c]) {
      const axes = poolAxes('avgPool2dGrad', x, attrs),
        zero = e.const(0, x.dtype);
      return lookers(e, axes, h, v)
        .map((t) => {
          const share = e.op('div', [
            dy.at([n, t.row, t.column, c]),
            covered(e, axes, t.row, t.column, attrs.padded, x.dtype),
          ]);
          return e.select(t.inside, share, zero);
        })
        .reduce((a, b) => e.op('add', [a, b]));
    },
  },
};
