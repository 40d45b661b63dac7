// Reductions that stay inside the kernel that uses them: one number a row (a sum of products, say, in the gradient of a
// norm), of which all that comes leads, number by number, to one stored value with the same rows. Its kernel makes the
// number once a row, while the row is at hand.
import { boundOf, elements } from '../base/shape.ts';
import type { Graph, Node, ValueId } from '../graph/graph.ts';
import type { OpTable } from '../graph/builder.ts';
import type { Uses } from './scope.ts';

/** What is computed a row at a time with a reduction: values that are not stored, and the one that is. */
export interface InRow {
  readonly within: readonly ValueId[];
  readonly stored: ValueId;
}

/** Null where `node` is no such reduction. */
export function reductionInRow(node: Node, graph: Graph, ops: OpTable, uses: Uses): InRow | null {
  const { types } = graph,
    axes = node.attrs['axes'] as readonly number[] | undefined;
  if ((node.op !== 'sum' && node.op !== 'max') || axes?.length !== 1 || node.attrs['serial'] === true) return null;
  const { shape } = types[node.inputs[0]],
    [axis] = axes,
    width = shape[axis];
  if (axis === 0 || axis !== shape.length - 1 || typeof width !== 'number' || width < 2) return null;

  const readerOf = (v: ValueId): Node | undefined => {
    const readers = new Set(uses.pinned.has(v) ? [] : uses.nodes[v]);
    return readers.size === 1 ? [...readers][0] : undefined;
  };
  /** The one reader, if it goes element by element and gives as many elements, in rows of the same width. */
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
  // One number a row, up to where it is spread over the row.
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
  // An element of the row each, up to the last value that leads to no other by itself.
  for (let first = true; ; first = false) {
    const next = elementwise(v, width);
    if (!next) return first ? null : { within, stored: v };
    within.push(v);
    v = next.outputs[0];
  }
}
