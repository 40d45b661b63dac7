// An output or a new state that is an unchanged input gets a copy: an update of the same run may overwrite the input's
// memory.
import { producers, type Graph, type ValueId } from '../graph/graph.ts';
import { rebuild } from './rebuild.ts';

export function ownResults(graph: Graph): Graph {
  const made = producers(graph);
  const isInput = (v: ValueId): boolean => {
    const node = made[v];
    return node === undefined || (node.op === 'reshape' && isInput(node.inputs[0]));
  };
  const wanted = new Set([...graph.outputs.map((o) => o.value), ...graph.updates.map((u) => u.value)].filter(isInput));
  if (wanted.size === 0) return graph;
  const copies = new Map<ValueId, ValueId>();
  const nodes = [...graph.nodes],
    types = [...graph.types];
  for (const v of wanted) {
    const out = types.push(types[v]) - 1;
    nodes.push({ op: 'copy', inputs: [v], outputs: [out], attrs: {}, scope: '' });
    copies.set(v, out);
  }
  const own = (v: ValueId): ValueId => copies.get(v) ?? v;
  return rebuild(
    {
      ...graph,
      types,
      nodes,
      outputs: graph.outputs.map((o) => ({ ...o, value: own(o.value) })),
      updates: graph.updates.map((u) => ({ ...u, value: own(u.value) })),
    },
    (node, to) => to.keep(node),
  );
}
