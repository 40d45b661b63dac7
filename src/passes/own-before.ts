// An op that writes into its operand's memory (Op.inPlaceOf) must be the only reader of that operand. An operand that
// something else reads too, that is an input, or that lies in another value's memory, is copied first. A state is not
// copied if the result is its new value: the op overwrites the state after all other readers of the old value.
import { producers, type Graph, type Node, type ValueId } from '../graph/graph.ts';
import type { OpTable } from '../graph/builder.ts';

/** Numbers of the inputs into whose memory a node writes its first results. */
export function inPlaceInputs(node: Node, ops: OpTable): number[] {
  const { inPlaceOf = [] } = ops.get(node.op) ?? {};
  return (typeof inPlaceOf === 'number' ? [inPlaceOf] : [...inPlaceOf]).filter((i) => i < node.inputs.length);
}

/** Whether a node writes the new value of a state into the state's memory. */
export function inState(graph: Graph, node: Node, ops: OpTable): boolean {
  const [first, ...more] = inPlaceInputs(node, ops),
    before = node.inputs[first],
    [value] = node.outputs;
  return (
    first !== undefined &&
    more.length === 0 &&
    graph.updates.some((u) => u.state === before && u.value === value) &&
    !graph.outputs.some((o) => o.value === value) &&
    graph.updates.filter((u) => u.value === value).length === 1 &&
    !graph.nodes.some((n) => n.inputs.includes(value))
  );
}

export function ownBefore(graph: Graph, ops: OpTable): Graph {
  if (!graph.nodes.some((n) => inPlaceInputs(n, ops).length > 0)) return graph;
  const made = producers(graph),
    reads = new Map<ValueId, number>();
  const read = (v: ValueId): void => {
    reads.set(v, (reads.get(v) ?? 0) + 1);
  };
  for (const n of graph.nodes) n.inputs.forEach(read);
  for (const o of graph.outputs) read(o.value);
  for (const u of graph.updates) [u.value, ...(u.unless === null ? [] : [u.unless])].forEach(read);
  const types = [...graph.types],
    nodes: Node[] = [];
  const isOwn = (v: ValueId): boolean => made[v] !== undefined && made[v].op !== 'reshape' && reads.get(v) === 1;
  for (const node of graph.nodes) {
    const inputs = [...node.inputs],
      copied = inState(graph, node, ops) ? [] : inPlaceInputs(node, ops).filter((at) => !isOwn(node.inputs[at]));
    for (const at of copied) {
      const own = types.push(types[node.inputs[at]]) - 1;
      nodes.push({ op: 'copy', inputs: [node.inputs[at]], outputs: [own], attrs: {}, scope: node.scope });
      inputs[at] = own;
    }
    nodes.push(copied.length > 0 ? { ...node, inputs } : node);
  }
  return { ...graph, types, nodes };
}
