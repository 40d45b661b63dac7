// Common sub-expressions: two nodes with the same op, inputs and attributes are one, unless one of them is there to
// compute again what the other computed before.
import { attrsText, type Graph } from '../graph/graph.ts';
import { rebuild } from './rebuild.ts';

export function shareEqualNodes(graph: Graph): Graph {
  const seen = new Map<string, readonly number[]>();
  return rebuild(graph, (node, to) => {
    const key = `${node.op}(${node.inputs.map((v) => to.map(v)).join()})${attrsText(node.attrs)}${node.recompute?.part ?? ''}`;
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
