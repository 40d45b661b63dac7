// Common sub-expressions: two nodes with the same op, inputs and attributes are one.
import type { Graph } from '../graph/graph.ts';
import { rebuild } from './rebuild.ts';

export function shareEqualNodes(graph: Graph): Graph {
  const seen = new Map<string, readonly number[]>();
  return rebuild(graph, (node, to) => {
    const attrs = Object.entries(node.attrs).sort(([a], [b]) => (a < b ? -1 : 1)).map(([k, v]) => `${k}=${show(v)}`);
    const key = `${node.op}(${node.inputs.map((v) => to.map(v)).join()}){${attrs.join()}}`;
    const found = seen.get(key);
    if (found) node.outputs.forEach((o, i) => to.replace(o, found[i]));
    else {
      to.keep(node);
      seen.set(key, node.outputs.map((o) => to.map(o)));
    }
  });
}

/** JSON would make NaN, infinities and -0 look alike. */
const show = (v: unknown): string => (typeof v === 'number' ? (Object.is(v, -0) ? '-0' : `${v}`) : JSON.stringify(v));
