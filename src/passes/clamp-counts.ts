// Counts never exceed their bounds. Kernels loop up to a count and do not check whether memory was planned for so many
// rows. A count (or offsets) that comes from outside, or from an op that does not promise `countsAreInBounds`, is
// therefore clamped once, before anything is sized by it.
import { dimValues, producers, type Graph, type Node, type ValueId } from '../graph/graph.ts';
import type { OpTable } from '../graph/builder.ts';
import type { Dim, TensorType } from '../base/shape.ts';

export function clampCounts(graph: Graph, ops: OpTable): Graph {
  const made = producers(graph);
  const trusted = (v: ValueId): boolean => {
    const node = made[v];
    return node !== undefined && ops.get(node.op)?.countsAreInBounds === true;
  };
  if (graph.types.flatMap(dimValues).every(trusted)) return graph;

  const types: TensorType[] = [],
    nodes: Node[] = [],
    table: ValueId[] = [],
    clamped = new Map<string, ValueId>();
  const countOf = (d: Exclude<Dim, number>): ValueId => (d.kind === 'bounded' ? d.count : d.offsets);
  /** The value that counts the rows of d, clamped if it is not trusted. */
  const clamp = (d: Exclude<Dim, number>): ValueId => {
    const old = countOf(d),
      own = table[old];
    if (trusted(old)) return own;
    const key = `${old}<=${d.bound}`,
      found = clamped.get(key);
    if (found !== undefined) return found;
    const v = types.push(types[own]) - 1;
    nodes.push({ op: 'clampCount', inputs: [own], outputs: [v], attrs: { bound: d.bound }, scope: '' });
    clamped.set(key, v);
    return v;
  };
  const dim = (d: Dim): Dim =>
    typeof d === 'number' ? d : d.kind === 'bounded' ? { ...d, count: clamp(d) } : { ...d, offsets: clamp(d) };
  const take = (v: ValueId): void => {
    const { dtype, shape } = graph.types[v],
      type = { dtype, shape: shape.map(dim) };
    table[v] = types.push(type) - 1;
  };
  const inputs = graph.inputs.map((i) => {
    take(i.value);
    return { ...i, value: table[i.value] };
  });
  for (const node of graph.nodes) {
    node.outputs.forEach(take);
    // An operand that counts rows of this node's inputs or outputs is replaced by the clamped one, as the types say.
    const dims = [...node.outputs, ...node.inputs].flatMap((v) =>
      graph.types[v].shape.filter((d) => typeof d !== 'number'),
    );
    const operand = (v: ValueId): ValueId => {
      const d = dims.find((x) => countOf(x) === v);
      return d ? clamp(d) : table[v];
    };
    nodes.push({ ...node, inputs: node.inputs.map(operand), outputs: node.outputs.map((v) => table[v]) });
  }
  const map = (v: ValueId): ValueId => table[v];
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
