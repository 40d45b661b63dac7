// Dead code: drops nodes whose results no output, update or dimension needs.
import { dimValues, type Graph } from '../graph/graph.ts';
import { rebuild } from './rebuild.ts';

export function dropDeadCode(graph: Graph): Graph {
  const needed = new Set<number>([
    ...graph.outputs.map((o) => o.value),
    ...graph.updates.flatMap((u) => [u.state, u.value, ...(u.unless === null ? [] : [u.unless])]),
    ...graph.inputs.flatMap((i) => dimValues(graph.types[i.value])),
  ]);
  for (const node of [...graph.nodes].reverse()) {
    if (!node.outputs.some((v) => needed.has(v))) continue;
    for (const v of node.inputs) needed.add(v);
    for (const v of node.outputs) for (const d of dimValues(graph.types[v])) needed.add(d);
  }
  return rebuild(graph, (node, to) => {
    if (node.outputs.some((v) => needed.has(v))) to.keep(node);
  });
}
