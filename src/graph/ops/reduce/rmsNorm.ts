// RMS normalisation of the last axis: y = x * rstd * gain, rstd = 1 / sqrt(mean(x^2) + eps). rstd is a second result,
// so that the gradient need not sum again.
import { ShapeError } from '../../../base/errors.ts';
import { atLeast0 } from '../../../base/kinds.ts';
import { shown } from '../../../base/options.ts';
import { boundOf, sameShape, showShape, type TensorType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit, emit1, scalar, type Tensor } from '../../tensor.ts';
import { unlike } from '../checked.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    rmsNorm: NormAttrs;
  }
}

export type NormAttrs = { readonly eps: number };

/** Checks an operand with one element per column (gain, bias) of a normalisation. */
export function checkColumns(op: string, x: TensorType, { eps }: NormAttrs, ...columns: readonly TensorType[]): void {
  if (atLeast0(eps) !== null) throw new ShapeError(`${op}: eps must be a number of at least 0, got ${shown(eps)}`);
  const last = x.shape[x.shape.length - 1];
  if (typeof last !== 'number')
    throw new ShapeError(`${op}: needs a last dimension of fixed size, got ${showShape(x.shape)}`);
  for (const c of columns) {
    if (c.dtype !== x.dtype) throw unlike(op, x.dtype, c.dtype);
    if (!sameShape(c.shape, [last])) {
      throw new ShapeError(`${op}: gain and bias must be ${x.dtype}[${last}], got ${c.dtype}${showShape(c.shape)}`);
    }
  }
}

export const rmsNormOp: Op<NormAttrs> = {
  // x * rstd * gain, and rstd = 1 / sqrt(mean(x^2) + eps) of each row.
  name: 'rmsNorm',
  activations: { inputs: [0], outputs: [0] },
  keepsRows: true,
  takes: ['floats'],
  infer([x, gain], attrs) {
    checkColumns('rmsNorm', x, attrs, gain);
    return [x, { dtype: x.dtype, shape: x.shape.slice(0, -1) }];
  },
  // With u = x rstd and g = dy gain: dx = rstd (g - u mean(g u)), dgain = sum over rows of dy u; d rstd / dx = -rstd^3
  // x / n.
  grad({ inputs: [x, gain], outputs: [, rstd], douts: [dy, drstd], needs }) {
    const axes = [x.shape.length - 1],
      n = boundOf(x.shape[axes[0]]);
    const wide = (t: Tensor): Tensor => emit1('expand', [t, x], { axes });
    const mul = (a: Tensor, b: Tensor): Tensor => emit1('mul', [a, b]);
    const u = mul(x, wide(rstd)),
      parts: Tensor[] = [];
    if (dy && needs[0]) {
      const g = mul(dy, gain),
        dot = emit1('sum', [mul(g, u)], { axes });
      parts.push(mul(wide(rstd), emit1('sub', [g, mul(u, wide(mul(dot, scalar(dot, 1 / n))))])));
    }
    if (drstd && needs[0]) parts.push(mul(u, wide(mul(mul(drstd, scalar(rstd, -1 / n)), mul(rstd, rstd)))));
    const lead = x.shape.map((_, i) => i).slice(0, -1),
      rows = dy && needs[1] ? mul(dy, u) : null;
    return [
      parts.length === 2 ? emit1('add', parts) : (parts[0] ?? null),
      rows && lead.length ? emit1('sum', [rows], { axes: lead }) : rows,
    ];
  },
  lower: {
    kind: 'map',
    weight: 12,
    passes: 2,
    at({ e, inputs: [x, gain], attrs }, index, output) {
      const dtype = x.type.dtype,
        rank = x.type.shape.length,
        lead = index.slice(0, rank - 1),
        n = boundOf(x.type.shape[rank - 1]);
      const op = (name: 'add' | 'mul' | 'div', a: (typeof index)[number], b: (typeof index)[number]) =>
        e.op(name, [a, b]);
      const squares = e.reduce('sum', 'lanes', n, (c) => {
        const v = x.at([...lead, c]);
        return op('mul', v, v);
      });
      const variance = op('add', op('mul', squares, e.const(1 / n, dtype)), e.const(attrs.eps, dtype));
      const rstd = op('div', e.const(1, dtype), e.op('sqrt', [variance]));
      return output === 1 ? rstd : op('mul', op('mul', x.at(index), rstd), gain.at([index[rank - 1]]));
    },
  },
};

/** x / sqrt(mean(x^2) + eps) * gain over the last axis: x [..., n], gain [n]. */
export const rmsNorm = (x: Tensor, gain: Tensor, eps = 1e-5): Tensor => emit('rmsNorm', [x, gain], { eps })[0];
