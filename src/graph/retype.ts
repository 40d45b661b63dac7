// Gives a graph other sizes: the nodes stay, a few attributes and constants change, and the types follow from the shape
// rules of ops. The result is the graph that tracing the model again would give, if the change decides only numbers of
// rows. It takes a fraction of the time.
import type { TypedArray } from '../base/dtype.ts';
import { ShapeError } from '../base/errors.ts';
import { boundOf, showType, type TensorType } from '../base/shape.ts';
import type { OpTable } from './builder.ts';
import type { Attrs, Graph, Node, ValueId } from './graph.ts';

export interface Edits {
  /** New attributes of nodes: of ops with loops of their own, or of ops whose attributes are only sizes. */
  readonly attrs: ReadonlyMap<Node, Attrs>;
  /** New data of constants. */
  readonly data: ReadonlyMap<ValueId, TypedArray>;
}

/**
 * Types that do not change stay the same objects. Throws ShapeError where the sizes do not fit, or where an attribute
 * of a node holds an old size.
 */
export function retype(graph: Graph, ops: OpTable, { attrs, data }: Edits): Graph {
  const types = [...graph.types],
    old = new Set<number>();
  const changed = (v: ValueId): boolean => types[v] !== graph.types[v];
  const nodes = graph.nodes.map((node): Node => {
    const op = ops.get(node.op),
      edited = attrs.get(node),
      own = edited ? { ...node, attrs: edited } : node;
    if (edited && op?.lower.kind !== 'loops' && op?.attrsOnlySizeDims !== true)
      throw new ShapeError(
        `${node.op}: attributes can change only if they are sizes, or if the op has loops of its own`,
      );
    if (!op || (!edited && !node.inputs.some(changed))) return node;
    op.infer(
      node.inputs.map((v) => types[v]),
      own.attrs,
      node.inputs,
    ).forEach((type, i) => {
      const v = node.outputs[i],
        before = graph.types[v];
      if (type.dtype !== before.dtype || type.shape.length !== before.shape.length)
        throw new ShapeError(`${node.op} makes ${showType(type)} instead of ${showType(before)}`);
      if (alike(type, before)) return;
      types[v] = type;
      old.add(boundOf(before.shape[0]));
    });
    if (!edited && names(node, old))
      throw new ShapeError(`an attribute of ${node.op} holds an old size: ${JSON.stringify(node.attrs)}`);
    return own;
  });
  for (const { state, value } of graph.updates)
    if (changed(state) || changed(value))
      throw new ShapeError(`the size of a state would change: ${showType(types[value])}`);
  return {
    ...graph,
    types,
    nodes,
    inputs: graph.inputs.map((i) => {
      const own = data.get(i.value);
      return own && i.kind !== 'state' ? { ...i, data: own } : i;
    }),
  };

  /** Whether an attribute holds one of these sizes, other than as the size of a dimension that does not change. */
  function names(node: Node, sizes: ReadonlySet<number>): boolean {
    const trailing = new Set([...node.inputs, ...node.outputs].flatMap((v) => types[v].shape.slice(1).map(boundOf)));
    return Object.values(node.attrs)
      .flat()
      .some((a) => typeof a === 'number' && a > 1 && sizes.has(a) && !trailing.has(a));
  }
}

function alike(a: TensorType, b: TensorType): boolean {
  return a.shape.every((d, i) => {
    const e = b.shape[i];
    return typeof d === 'number' || typeof e === 'number'
      ? d === e
      : d.kind === e.kind && d.bound === e.bound && d.usual === e.usual;
  });
}
