// Tensors one after the other along an axis.
import { checkAxis } from '../checked.ts';
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, sameDim, showShape } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    concat: ConcatAttrs;
  }
}

export type ConcatAttrs = { readonly axis: number };

export const concatOp: Op<ConcatAttrs> = {
  // The inputs one after the other along an axis.
  name: 'concat',
  moves: 'all',
  infer(inputs, { axis }) {
    const [first] = inputs;
    if (inputs.length === 0) throw new ShapeError('concat: needs at least one tensor');
    checkAxis('concat', first, axis);
    for (const t of inputs) {
      const fits =
        t.dtype === first.dtype &&
        t.shape.length === first.shape.length &&
        typeof t.shape[axis] === 'number' &&
        t.shape.every((d, i) => i === axis || sameDim(d, first.shape[i]));
      if (!fits)
        throw new ShapeError(
          `concat: ${inputs.map((i) => i.dtype + showShape(i.shape)).join(', ')} do not fit along dimension ${axis}`,
        );
    }
    const size = inputs.reduce((n, t) => n + boundOf(t.shape[axis]), 0);
    return [{ dtype: first.dtype, shape: first.shape.map((d, i) => (i === axis ? size : d)) }];
  },
  grad({ inputs, douts: [dout], attrs: { axis }, needs }) {
    let from = 0;
    return inputs.map((x, i) => {
      const to = from + boundOf(x.shape[axis]),
        part = { axis, from, to };
      from = to;
      return dout && needs[i] ? emit1('slice', [dout], part) : null;
    });
  },
  lower: {
    kind: 'map',
    weight: 2,
    readsEachInputOnce: true,
    at({ e, inputs, attrs: { axis } }, index) {
      // Nested selections, from the last input to the first: an element belongs to the first input whose end is beyond
      // its index.
      let value: Expr | null = null,
        end = inputs.reduce((n, x) => n + boundOf(x.type.shape[axis]), 0);
      for (const x of [...inputs].reverse()) {
        const n = boundOf(x.type.shape[axis]),
          start = end - n;
        end = start;
        if (n === 0) continue;
        const i = index[axis],
          before = e.lt(i, e.index(start + n));
        const inside = e.and(e.le(e.index(start), i), before);
        const at = e.select(inside, e.add(i, -start), e.index(0));
        const own = x.at(index.map((d, k) => (k === axis ? at : d)));
        value = value === null ? own : e.select(before, own, value);
      }
      return value ?? e.const(0, inputs[0].type.dtype);
    },
  },
};

/** Tensors that agree in all dimensions but `axis`, one after the other along it. */
export function concat(tensors: readonly Tensor[], axis: number): Tensor {
  if (tensors.length === 0) throw new ShapeError('concat: needs at least one tensor');
  const at = axis < 0 ? axis + tensors[0].shape.length : axis;
  checkAxis('concat', tensors[0].type, at);
  return tensors.length === 1 ? tensors[0] : emit1('concat', tensors, { axis: at });
}
