// Rotary position embedding (Su et al. 2021), half-split: element j of the first half of a head and element j of the second are turned
// by the angle of (position, j). Its gradient is the turn back.
import { ShapeError } from '../../base/errors.ts';
import { boundOf, elements, sameShape, showShape, type Dim } from '../../base/shape.ts';
import type { Op } from '../op.ts';
import { emit1, type Tensor } from '../tensor.ts';

/** inverse: turns back. */
export type RopeAttrs = { readonly inverse: boolean };

export const ropeOp: Op<RopeAttrs> = {
  // (a cos - b sin, b cos + a sin) for the halves a, b of the last axis of x [..., T, H, Dh].
  name: 'rope',
  infer([x, cos, sin]) {
    const [time, , width] = x.shape.slice(-3), shape: Dim[] = [time, typeof width === 'number' ? width / 2 : 0];
    const fits = x.shape.length >= 3 && typeof width === 'number' && width % 2 === 0 && typeof x.shape.at(-2) === 'number';
    if (!fits || ![cos, sin].every((t) => t.dtype === x.dtype && sameShape(t.shape, shape))) {
      throw new ShapeError(`rope: needs x [..., T, H, Dh] with Dh even, cos and sin [T, Dh/2], got ${[x, cos, sin].map((t) => showShape(t.shape)).join(', ')}`);
    }
    return [x];
  },
  grad({ inputs: [x, cos, sin], douts: [dout], attrs: { inverse }, needs }) {
    if (!dout) return [null, null, null];
    const axis = x.shape.length - 1, half = boundOf(x.shape[axis]) / 2, axes = x.shape.map((_, i) => i).filter((i) => i !== axis && i !== axis - 2);
    const halves = (t: Tensor): Tensor[] => [0, half].map((from) => emit1('slice', [t], { axis, from, to: from + half }));
    const product = (p: Tensor, q: Tensor): Tensor => emit1('mul', [p, q]), total = (t: Tensor): Tensor => emit1('sum', [t], { axes });
    const [[a, b], [d, f]] = needs[1] || needs[2] ? [halves(x), halves(dout)] : [[], []];
    return [
      needs[0] ? emit1('rope', [dout, cos, sin], { inverse: !inverse }) : null,
      needs[1] ? total(emit1('add', [product(d, a), product(f, b)])) : null,
      needs[2] ? total(emit1('sub', inverse ? [product(d, b), product(f, a)] : [product(f, a), product(d, b)])) : null];
  },
  lower: { kind: 'loops', build({ e, k, inputs: [x, cos, sin], outputs: [y], outTypes: [type], attrs }) {
    const { shape, dtype } = type, [time, heads, width] = shape.slice(-3).map(boundOf), half = width / 2;
    const rows = e.scale(k.extent(type, 0), elements(shape.slice(1, -1)));
    return { grid: { extent: rows, grain: Math.max(1, Math.floor(4096 / Math.max(1, width))) }, body: (row) => [k.vector(half, (j) => {
      const first = e.linear(0, [[width, row], [1, j]]), second = e.linear(half, [[1, first]]);
      const angle = e.linear(0, [[half, e.mod(e.div(row, heads), time)], [1, j]]);
      const [a, b] = [k.load(x, first), k.load(x, second)];
      const c = k.load(cos, angle), s = attrs.inverse ? e.op('neg', [k.load(sin, angle)], dtype) : k.load(sin, angle);
      const mul = (p: typeof a, q: typeof a) => e.op('mul', [p, q], dtype);
      return [k.store(y, first, e.op('sub', [mul(a, c), mul(b, s)], dtype)), k.store(y, second, e.op('add', [mul(b, c), mul(a, s)], dtype))];
    })] };
  } },
  reference({ inputs: [x, cos, sin], outTypes: [{ shape }], attrs: { inverse } }) {
    const [time, heads, width] = shape.slice(-3).map(boundOf), half = width / 2, out = new Float64Array(x.length);
    for (let row = 0; row * width < x.length; row++) {
      const t = Math.floor(row / heads) % time;
      for (let j = 0; j < half; j++) {
        const at = row * width + j, c = cos[t * half + j], s = inverse ? -sin[t * half + j] : sin[t * half + j];
        out[at] = x[at] * c - x[at + half] * s;
        out[at + half] = x[at + half] * c + x[at] * s;
      }
    }
    return [out];
  },
};

/** x [..., T, H, Dh] turned by cos and sin [T, Dh/2] of its positions' angles. */
export const rope = (x: Tensor, cos: Tensor, sin: Tensor): Tensor => emit1('rope', [x, cos, sin], { inverse: false });
