// Rotary positions, halves.
import { boundOf } from '../../base/shape.ts';
import { emit1, type Tensor } from '../tensor.ts';
export function rope(x: Tensor, cos: Tensor, sin: Tensor): Tensor {
  const axis = x.shape.length - 1, w = boundOf(x.shape[axis]), t = boundOf(x.shape[1]);
  const a = emit1('slice', [x], { axis, start: 0, end: w / 2 }), b = emit1('slice', [x], { axis, start: w / 2, end: w });
  const r = (y: Tensor): Tensor => emit1('reshape', [y], { shape: [t, 1, w / 2] }), m = (p: Tensor, q: Tensor): Tensor => emit1('mul', [p, q]);
  const c = r(cos), s = r(sin);
  const p = (y: Tensor, start: number): Tensor => emit1('pad', [y], { axis, start, size: w });
  return emit1('add', [p(emit1('sub', [m(a, c), m(b, s)]), 0), p(emit1('add', [m(b, c), m(a, s)]), w / 2)]);
}
