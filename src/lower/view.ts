// Views: values whose elements lie in the memory of a stored value, at constant steps along each axis. Kernels with
// loops of their own may read such values there (Lowering's `strided`), so that a slice is not copied.
import { stridesOf, type TensorType } from '../base/shape.ts';
import type { Node, ValueId } from '../graph/graph.ts';
import type { SliceAttrs } from '../graph/ops/shape/slice.ts';

/** Element `index` lies at offset + sum of strides * index in the memory of `of`. */
export interface View {
  readonly of: ValueId;
  readonly offset: number;
  readonly strides: readonly number[];
}

/** Where the elements of v lie in the memory of a stored value; null if they do not. */
export function viewOf(
  v: ValueId,
  types: readonly TensorType[],
  producers: readonly (Node | undefined)[],
  stored: ReadonlySet<ValueId>,
): View | null {
  const node = producers[v];
  if (stored.has(v)) return { of: v, offset: 0, strides: stridesOf(types[v].shape) };
  if (node?.op !== 'slice' && node?.op !== 'transpose') return null;
  const base = viewOf(node.inputs[0], types, producers, stored);
  if (!base) return null;
  if (node.op === 'transpose')
    return { ...base, strides: (node.attrs['order'] as readonly number[]).map((d) => base.strides[d]) };
  const { axis, from } = node.attrs as SliceAttrs;
  return { ...base, offset: base.offset + from * base.strides[axis] };
}
