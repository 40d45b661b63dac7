// What passes share: goes through the nodes of a graph once and builds the next graph, with a table from old values to
// new ones.
import type { DType } from '../base/dtype.ts';
import { isDynamic, type Dim, type TensorType } from '../base/shape.ts';
import type { OpTable } from '../graph/builder.ts';
import type { Graph, Node, ValueId } from '../graph/graph.ts';
import { Tensor, type Builder } from '../graph/tensor.ts';

export interface Rebuild {
  /** The new value that stands for an old one. */
  map(old: ValueId): ValueId;
  /** Copies a node with mapped inputs. */
  keep(node: Node): void;
  /** Replaces an old value by a new one from here on. */
  replace(old: ValueId, by: ValueId): void;
  /**
   * Adds a node whose inputs are new values; gives its first output. like: it is recomputed and ordered as this old
   * node.
   */
  make(
    op: string,
    inputs: readonly ValueId[],
    attrs: Node['attrs'],
    types: readonly TensorType[],
    scope: string,
    like?: Pick<Node, 'recompute' | 'notBefore'>,
  ): ValueId;
  typeOf(fresh: ValueId): TensorType;
  /** The type of an old value, with counts that are new values. */
  mapped(old: ValueId): TensorType;
}

/** A cast of a new value, in the place of an old node. */
export const castLike = (to: Rebuild, node: Node, from: ValueId, dtype: DType): ValueId =>
  to.make('cast', [from], { dtype }, [{ ...to.typeOf(from), dtype }], node.scope, node);

/** With it, functions on tensors add nodes to the new graph, in the scope of an old node. */
export function builderOf(to: Rebuild, ops: OpTable, { scope }: Node): Builder {
  const builder: Builder = {
    emit(op, inputs, attrs = {}) {
      const ids = inputs.map((t) => t.id),
        given = inputs.map((t) => t.type),
        types = ops.get(op)?.infer(given, attrs, ids) ?? [],
        first = to.make(op, ids, attrs, types, scope);
      return types.map((_, i) => builder.tensor(first + i));
    },
    tensor: (id) => new Tensor(builder, id, to.typeOf(id)),
  };
  return builder;
}

/** Builds a new graph: `visit` keeps, replaces or drops each node. */
export function rebuild(graph: Graph, visit: (node: Node, to: Rebuild) => void): Graph {
  const types: TensorType[] = [],
    nodes: Node[] = [],
    table = new Map<ValueId, ValueId>();
  const map = (old: ValueId): ValueId => {
    const found = table.get(old);
    if (found === undefined) throw new Error(`value %${old} was dropped but is used`);
    return found;
  };
  const dim = (d: Dim): Dim =>
    typeof d === 'number'
      ? d
      : d.kind === 'bounded'
        ? { ...d, count: map(d.count) }
        : { ...d, offsets: map(d.offsets) };
  const fresh = (type: TensorType): ValueId => types.push(type) - 1;
  const mapped = (old: ValueId): TensorType => {
    const type = graph.types[old];
    return isDynamic(type.shape) ? { ...type, shape: type.shape.map(dim) } : type;
  };
  const to: Rebuild = {
    map,
    mapped,
    keep(node) {
      const inputs = node.inputs.map(map),
        outputs = node.outputs.map((o) => fresh(mapped(o)));
      node.outputs.forEach((o, i) => table.set(o, outputs[i]));
      nodes.push({ ...node, inputs, outputs });
    },
    replace: (old, by) => {
      table.set(old, by);
    },
    make(op, inputs, attrs, outTypes, scope, { recompute, notBefore } = {}) {
      const outputs = outTypes.map(fresh);
      nodes.push({
        op,
        inputs,
        outputs,
        attrs,
        scope,
        ...(recompute && { recompute }),
        ...(notBefore !== undefined && { notBefore }),
      });
      return outputs[0];
    },
    typeOf: (v) => types[v],
  };
  const inputs = graph.inputs.map((i) => {
    const value = fresh(mapped(i.value));
    table.set(i.value, value);
    return { ...i, value };
  });
  for (const node of graph.nodes) visit(node, to);
  return {
    types,
    nodes,
    inputs,
    outputs: graph.outputs.map((o) => ({ ...o, value: map(o.value) })),
    updates: graph.updates.map((u) => ({
      state: map(u.state),
      value: map(u.value),
      unless: u.unless === null ? null : map(u.unless),
    })),
  };
}
