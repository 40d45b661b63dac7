// A graph with other sizes: the same nodes, a few attributes and constants changed, every type following anew from the
// ops' rules. What tracing the model again would give, where what changed decides nothing but how many rows there are,
// in a fraction of the time.
import type { TypedArray } from '../base/dtype.ts';
import { ShapeError } from '../base/errors.ts';
import { boundOf, showType, type TensorType } from '../base/shape.ts';
import type { OpTable } from './builder.ts';
import type { Attrs, Graph, Node, ValueId } from './graph.ts';

export interface Edits {
  /** New attributes, of nodes whose ops run loops of their own, or have attributes that are sizes alone. */
  readonly attrs: ReadonlyMap<Node, Attrs>;
  /** New data of constants. */
  readonly data: ReadonlyMap<ValueId, TypedArray>;
}

/**
 * Types that stay as they are stay the same objects. Throws ShapeError where the sizes do not fit, or a node that they
 * reach names an old one.
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
        `${node.op}: ` + `only attributes of ops with loops of their own, or that are sizes, can be changed`,
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
      throw new ShapeError(`${node.op} names an old size: ` + `${JSON.stringify(node.attrs)}`);
    return own;
  });
  for (const { state, value } of graph.updates)
    if (changed(state) || changed(value))
      throw new ShapeError(`a state ` + `of another size: ${showType(types[value])}`);
  return {
    ...graph,
    types,
    nodes,
    inputs: graph.inputs.map((i) => {
      const own = data.get(i.value);
      return own ? { ...i, data: own } : i;
    }),
  };

  /** Whether an attribute holds one of these sizes, and not because a dimension that stays has it. */
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
