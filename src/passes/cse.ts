// Common sub-expressions: of two nodes with the same op, inputs and attributes one is kept. A node that is there to
// recompute what another node computed before (Node.recompute) is kept too.
import { attrsText, type Graph } from '../graph/graph.ts';
import { rebuild } from './rebuild.ts';

export function shareEqualNodes(graph: Graph): Graph {
  const seen = new Map<string, readonly number[]>();
  return rebuild(graph, (node, to) => {
    const inputs = node.inputs.map((v) => to.map(v)).join();
    const key = `${node.op}(${inputs})${attrsText(node.attrs)}${node.recompute?.part ?? ''}`;
    const found = seen.get(key);
    if (found) node.outputs.forEach((o, i) => to.replace(o, found[i]));
    else {
      to.keep(node);
      seen.set(
        key,
        node.outputs.map((o) => to.map(o)),
      );
    }
  });
}
