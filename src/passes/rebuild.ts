// What passes share: goes through the nodes of a graph once and builds the next graph, with a table from old values to
// new ones.
import type { DType } from '../base/dtype.ts';
import type { Dim, TensorType } from '../base/shape.ts';
import type { Graph, Node, ValueId } from '../graph/graph.ts';

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
  const mapped = (old: ValueId): TensorType => ({ ...graph.types[old], shape: graph.types[old].shape.map(dim) });
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
