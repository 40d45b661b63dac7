// Layer normalisation of the last axis: y = (x - mean) * rstd * gain + bias, rstd = 1 / sqrt(mean((x - mean)^2) + eps).
// mean and rstd are further results, for the gradient.
import { boundOf } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit, emit1, scalar, type Tensor } from '../../tensor.ts';
import { checkColumns, type NormAttrs } from './rmsNorm.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    layerNorm: NormAttrs;
  }
}

export const layerNormOp: Op<NormAttrs> = {
  // (x - mean) * rstd * gain + bias; mean; rstd = 1 / sqrt(variance + eps) of each row.
  name: 'layerNorm',
  activations: { inputs: [0], outputs: [0] },
  keepsRows: true,
  takes: ['floats'],
  infer([x, gain, bias], attrs) {
    checkColumns('layerNorm', x, attrs, gain, bias);
    const row = { dtype: x.dtype, shape: x.shape.slice(0, -1) };
    return [x, row, row];
  },
  // With u = (x - mean) rstd and g = dy gain: dx = rstd (g - mean(g) - u mean(g u)); d mean / dx = 1 / n; d rstd / dx =
  // -rstd^2 u / n.
  grad({ inputs: [x, gain], outputs: [, mean, rstd], douts: [dy, dmean, drstd], needs }) {
    const axes = [x.shape.length - 1],
      n = boundOf(x.shape[axes[0]]);
    const wide = (t: Tensor): Tensor => emit1('expand', [t, x], { axes });
    const mul = (a: Tensor, b: Tensor): Tensor => emit1('mul', [a, b]);
    const u = mul(emit1('sub', [x, wide(mean)]), wide(rstd)),
      parts: Tensor[] = [];
    if (dy && needs[0]) {
      const g = mul(dy, gain),
        average = (t: Tensor): Tensor => mul(emit1('sum', [t], { axes }), scalar(x, 1 / n));
      parts.push(
        mul(wide(rstd), emit1('sub', [emit1('sub', [g, wide(average(g))]), mul(u, wide(average(mul(g, u))))])),
      );
    }
    if (dmean && needs[0]) parts.push(wide(mul(dmean, scalar(x, 1 / n))));
    if (drstd && needs[0]) parts.push(mul(u, wide(mul(mul(drstd, scalar(x, -1 / n)), mul(rstd, rstd)))));
    const lead = x.shape.map((_, i) => i).slice(0, -1);
    const overRows = (t: Tensor): Tensor => (lead.length ? emit1('sum', [t], { axes: lead }) : t);
    return [
      parts.length ? parts.reduce((a, b) => emit1('add', [a, b])) : null,
      dy && needs[1] ? overRows(mul(dy, u)) : null,
      dy && needs[2] ? overRows(dy) : null,
    ];
  },
  lower: {
    kind: 'map',
    weight: 16,
    passes: 3,
    at({ e, inputs: [x, gain, bias], attrs }, index, output) {
      const dtype = x.type.dtype,
        rank = x.type.shape.length,
        lead = index.slice(0, rank - 1),
        n = boundOf(x.type.shape[rank - 1]);
      const op = (name: 'add' | 'sub' | 'mul' | 'div', a: (typeof index)[number], b: (typeof index)[number]) =>
        e.op(name, [a, b]);
      const average = (f: (v: (typeof index)[number]) => (typeof index)[number]) =>
        op(
          'mul',
          e.reduce('sum', 'lanes', n, (c) => f(x.at([...lead, c]))),
          e.const(1 / n, dtype),
        );
      const mean = average((v) => v);
      if (output === 1) return mean;
      const variance = average((v) => {
        const d = op('sub', v, mean);
        return op('mul', d, d);
      });
      const rstd = op('div', e.const(1, dtype), e.op('sqrt', [op('add', variance, e.const(attrs.eps, dtype))]));
      if (output === 2) return rstd;
      const column = [index[rank - 1]],
        unit = op('mul', op('sub', x.at(index), mean), rstd);
      return e.op('fma', [unit, gain.at(column), bias.at(column)]);
    },
  },
};

/** (x - mean) / sqrt(variance + eps) * gain + bias over the last axis: x [..., n], gain and bias [n]. */
export const layerNorm = (x: Tensor, gain: Tensor, bias: Tensor, eps = 1e-5): Tensor =>
  emit('layerNorm', [x, gain, bias], { eps })[0];
