// Which stored values the expression of a value reads, and whether it reads them at the element that is being computed.
import { elements, sameDim } from '../base/shape.ts';
import { dimValues, type Graph, type ValueId } from '../graph/graph.ts';
import type { Storage } from './scope.ts';
import { readInputs } from './store.ts';

/** The stored values that an expression reads. */
export interface Leaves {
  /** Read only at the index of the element that is being computed. */
  readonly same: ReadonlySet<ValueId>;
  /** Read (also) at other indices, or as the number of rows of a dimension. */
  readonly other: ReadonlySet<ValueId>;
  /** Whether the expression contains the result of a row operation (rows.ts) that is not stored. */
  readonly reducesRows: boolean;
}

/** `ownLoops`: v is computed by a matmul or by loops of its own, which read their operands at any index. */
export function leavesOf({ graph, ops, producers, stored }: Storage, v: ValueId, ownLoops: boolean): Leaves {
  const same = new Set<ValueId>(),
    other = new Set<ValueId>(),
    seen = new Set<number>();
  let reducesRows = false;

  const visit = (value: ValueId, atSameIndex: boolean, top: boolean): void => {
    const key = 2 * value + Number(atSameIndex);
    if (seen.has(key)) return;
    seen.add(key);
    for (const d of graph.types[value].shape)
      if (typeof d !== 'number') other.add(d.kind === 'bounded' ? d.count : d.offsets);
    const node = producers[value];
    if (!node || (stored.has(value) && !top)) {
      (atSameIndex ? same : other).add(value);
      return;
    }
    const op = ops.get(node.op),
      map = op?.lower.kind === 'map' ? op.lower : undefined;
    if (map?.passes !== undefined && !top) reducesRows = true;
    // The op does not read these inputs, but it may read how many rows they have.
    for (const i of op?.unread ?? [])
      if (i < node.inputs.length) for (const d of dimValues(graph.types[node.inputs[i]])) other.add(d);
    const elementwise = atSameIndex && map?.linear !== undefined;
    for (const input of readInputs(node, ops)) visit(input, elementwise && sameSize(graph, input, value), false);
  };
  visit(v, !ownLoops, true);

  for (const leaf of other) same.delete(leaf);
  return { same, other, reducesRows };
}

/** Whether one loop can compute both values: as many elements, and the same counted dimension outermost (or none). */
export function sameSize(graph: Graph, a: ValueId, b: ValueId): boolean {
  const { shape: x } = graph.types[a],
    { shape: y } = graph.types[b];
  if (elements(x) !== elements(y) || typeof x[0] !== typeof y[0]) return false;
  return typeof x[0] !== 'object' || sameDim(x[0], y[0]);
}
