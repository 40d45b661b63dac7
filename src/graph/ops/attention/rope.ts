// Rotary position embedding (Su et al. 2021), half-split: element j of the first half of a head and element j of the
// second half are rotated by the angle of (position, j). The gradient is the inverse rotation.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, sameShape, showShape, type Dim } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    rope: RopeAttrs;
  }
}

/** inverse: rotates by the negative angle. */
export type RopeAttrs = { readonly inverse: boolean };

export const ropeOp: Op<RopeAttrs> = {
  // (a cos - b sin, b cos + a sin) for the halves a, b of the last axis of x [..., T, H, Dh].
  name: 'rope',
  activations: { inputs: [0], outputs: [0] },
  keepsRows: true,
  takes: ['floats'],
  infer([x, cos, sin]) {
    const [time, , width] = x.shape.slice(-3),
      shape: Dim[] = [time, typeof width === 'number' ? width / 2 : 0];
    const fits =
      x.shape.length >= 3 && typeof width === 'number' && width % 2 === 0 && typeof x.shape.at(-2) === 'number';
    if (!fits || ![cos, sin].every((t) => t.dtype === x.dtype && sameShape(t.shape, shape))) {
      throw new ShapeError(
        `rope: needs x [..., T, H, Dh] with Dh even, cos and sin [T, Dh/2], got ` +
          `${[x, cos, sin].map((t) => showShape(t.shape)).join(', ')}`,
      );
    }
    return [x];
  },
  grad({ inputs: [x, cos, sin], douts: [dout], attrs: { inverse }, needs }) {
    if (!dout) return [null, null, null];
    const axis = x.shape.length - 1,
      half = boundOf(x.shape[axis]) / 2,
      axes = x.shape.map((_, i) => i).filter((i) => i !== axis && i !== axis - 2);
    const halves = (t: Tensor): Tensor[] =>
      [0, half].map((from) => emit1('slice', [t], { axis, from, to: from + half }));
    const product = (p: Tensor, q: Tensor): Tensor => emit1('mul', [p, q]),
      total = (t: Tensor): Tensor => emit1('sum', [t], { axes });
    const [[a, b], [d, f]] = needs[1] || needs[2] ? [halves(x), halves(dout)] : [[], []];
    return [
      needs[0] ? emit1('rope', [dout, cos, sin], { inverse: !inverse }) : null,
      needs[1] ? total(emit1('add', [product(d, a), product(f, b)])) : null,
      needs[2] ? total(emit1('sub', inverse ? [product(d, b), product(f, a)] : [product(f, a), product(d, b)])) : null,
    ];
  },
  lower: {
    kind: 'map',
    weight: 6,
    at({ e, inputs: [x, cos, sin], attrs: { inverse } }, index) {
      const { shape } = x.type,
        [time, , column] = index.slice(-3),
        lead = index.slice(0, -1),
        half = boundOf(shape[shape.length - 1]) / 2;
      const first = e.lt(column, e.index(half)),
        mul = (p: Expr, q: Expr): Expr => e.op('mul', [p, q]);
      const other = e.select(first, e.add(column, half), e.add(column, -half)),
        angle = [time, e.mod(column, half)];
      const own = mul(x.at(index), cos.at(angle)),
        turned = mul(x.at([...lead, other]), sin.at(angle));
      const [minus, plus] = (['sub', 'add'] as const).map((op) => e.op(op, [own, turned]));
      return e.select(first, inverse ? plus : minus, inverse ? minus : plus);
    },
  },
};

/** x [..., T, H, Dh], rotated by the angles of its positions, whose cos and sin are [T, Dh/2]. */
export const rope = (x: Tensor, cos: Tensor, sin: Tensor): Tensor => emit1('rope', [x, cos, sin], { inverse: false });
