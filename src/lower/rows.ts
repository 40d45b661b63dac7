// Reductions along rows that stay inside the kernel that uses them. Example: the gradient of a norm has a sum of
// products for each row. If every use of this number leads, element by element, to one stored value with the same rows,
// the kernel of that value computes the number once per row, and the number is not stored.
import { boundOf, elements } from '../base/shape.ts';
import type { Graph, Node, ValueId } from '../graph/graph.ts';
import type { OpTable } from '../graph/builder.ts';
import type { Uses } from './scope.ts';

/** `within`: values that are computed once per row and not stored. `stored`: the value whose kernel computes them. */
export interface InRow {
  readonly within: readonly ValueId[];
  readonly stored: ValueId;
}

/** Null if `node` is no reduction along rows, or its uses lead to more than one stored value. */
export function reductionInRow(node: Node, graph: Graph, ops: OpTable, uses: Uses): InRow | null {
  const { types } = graph,
    axes = node.attrs['axes'] as readonly number[] | undefined;
  if (
    (node.op !== 'sum' && node.op !== 'max') ||
    axes?.length !== 1 ||
    node.attrs['serial'] === true ||
    node.attrs['parts'] !== undefined
  )
    return null;
  const { shape } = types[node.inputs[0]],
    [axis] = axes,
    width = shape[axis];
  if (axis === 0 || axis !== shape.length - 1 || typeof width !== 'number' || width < 2) return null;

  const readerOf = (v: ValueId): Node | undefined => {
    const readers = new Set(uses.pinned.has(v) ? [] : uses.nodes[v]);
    return readers.size === 1 ? [...readers][0] : undefined;
  };
  /**
   * The only reader of v, if it is elementwise and its result has as many elements, in rows of width `last` (null: as
   * many axes as v).
   */
  const elementwise = (v: ValueId, last: number | null): Node | null => {
    const reader = readerOf(v),
      lower = reader && ops.get(reader.op)?.lower;
    if (
      !reader ||
      lower?.kind !== 'map' ||
      !lower.linear ||
      reader.outputs.length !== 1 ||
      reader.notBefore !== node.notBefore
    )
      return null;
    const to = types[reader.outputs[0]].shape,
      same = elements(to) === elements(types[v].shape);
    return same && (last === null ? to.length === types[v].shape.length : boundOf(to[to.length - 1] ?? 1) === last)
      ? reader
      : null;
  };
  // Values with one number per row, up to the node that expands the number over the row.
  const within: ValueId[] = [node.outputs[0]],
    spreads = (r: Node): boolean => {
      const to = types[r.outputs[0]].shape,
        over = r.attrs['axes'] as readonly number[] | undefined;
      return (
        r.op === 'expand' &&
        over?.length === 1 &&
        over[0] === to.length - 1 &&
        to[to.length - 1] === width &&
        r.notBefore === node.notBefore
      );
    };
  let v = node.outputs[0];
  for (;;) {
    const reader = readerOf(v),
      next = elementwise(v, null);
    if (reader && spreads(reader)) {
      v = reader.outputs[0];
      break;
    }
    if (!next) return null;
    v = next.outputs[0];
    within.push(v);
  }
  // Values with one element per column, up to the last one that does not lead to exactly one other value.
  for (let first = true; ; first = false) {
    const next = elementwise(v, width);
    if (!next) return first ? null : { within, stored: v };
    within.push(v);
    v = next.outputs[0];
  }
}
