// What an op goes on with (`onto`) is its own: a value that somebody else reads too, that comes from outside or lies in another's memory,
// is copied first. A state of which the result is the new value is its own too: it is gone on with in place, after all that read it.
import { producers, type Graph, type Node, type ValueId } from '../graph/graph.ts';
import type { OpTable } from '../graph/builder.ts';

/** The value in whose memory a node makes its first result. */
export function ontoOf(node: Node, ops: OpTable): ValueId | null {
  const at = ops.get(node.op)?.onto;
  return at === undefined ? null : node.inputs[at] ?? null;
}

/** Whether a node makes the new value of a state in the state's own memory. */
export function inState(graph: Graph, node: Node, ops: OpTable): boolean {
  const before = ontoOf(node, ops), [value] = node.outputs;
  return before !== null && graph.updates.some((u) => u.state === before && u.value === value) && !graph.outputs.some((o) => o.value === value)
    && graph.updates.filter((u) => u.value === value).length === 1 && !graph.nodes.some((n) => n.inputs.includes(value));
}

export function ownBefore(graph: Graph, ops: OpTable): Graph {
  if (!graph.nodes.some((n) => ontoOf(n, ops) !== null)) return graph;
  const made = producers(graph), reads = new Map<ValueId, number>();
  const read = (v: ValueId): void => { reads.set(v, (reads.get(v) ?? 0) + 1); };
  for (const n of graph.nodes) n.inputs.forEach(read);
  for (const o of graph.outputs) read(o.value);
  for (const u of graph.updates) [u.value, ...(u.unless === null ? [] : [u.unless])].forEach(read);
  const types = [...graph.types], nodes: Node[] = [];
  for (const node of graph.nodes) {
    const before = ontoOf(node, ops), maker = before === null ? undefined : made[before];
    if (before === null || inState(graph, node, ops) || (maker && maker.op !== 'reshape' && reads.get(before) === 1)) { nodes.push(node); continue; }
    const own = types.push(types[before]) - 1, at = ops.get(node.op)?.onto;
    nodes.push({ op: 'copy', inputs: [before], outputs: [own], attrs: {}, scope: node.scope }, { ...node, inputs: node.inputs.map((v, i) => (i === at ? own : v)) });
  }
  return { ...graph, types, nodes };
}
