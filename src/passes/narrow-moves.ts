// Values that move are moved as 16 bits where they are rounded before or after that. The values stay the same, and
// where memory holds the moved ones it holds half the bytes.
//
// - What is widened to float32 and then moved (reshaped, cut, sent to experts) is moved as 16 bits and widened after
//   that.
// - What is reshaped and then rounded is rounded first: kernels compute it by the rows that it had before.
import { isHalf } from '../base/half.ts';
import { producers, type Graph, type Node, type ValueId } from '../graph/graph.ts';
import type { OpTable } from '../graph/builder.ts';
import { rounds, widens } from '../graph/rounding.ts';
import { castLike, rebuild, type Rebuild } from './rebuild.ts';

export function narrowMoves(graph: Graph, ops: OpTable): Graph {
  if (!graph.types.some(({ dtype }) => isHalf(dtype))) return graph;
  const makers = producers(graph),
    reads = graph.types.map(() => 0);
  for (const v of graph.nodes.flatMap((n) => n.inputs)) reads[v]++;
  for (const { value } of [...graph.outputs, ...graph.updates]) reads[value]++;
  /** New values of float32, and the 16-bit values that they were widened from. */
  const widened = new Map<ValueId, ValueId>();

  const moved = (node: Node, from: ValueId, to: Rebuild): ValueId => {
    const [out] = node.outputs,
      { dtype } = to.typeOf(from),
      rest = node.inputs.slice(1).map((v) => to.map(v));
    return to.make(node.op, [from, ...rest], node.attrs, [{ ...to.mapped(out), dtype }], node.scope, node);
  };

  return rebuild(graph, (node, to) => {
    const [from] = node.inputs,
      [out] = node.outputs,
      narrow = from === undefined ? undefined : widened.get(to.map(from)),
      before = makers[from];
    if (ops.get(node.op)?.moves === 'first' && node.outputs.length === 1 && narrow !== undefined) {
      const bits = moved(node, narrow, to),
        wide = castLike(to, node, bits, graph.types[out].dtype);
      widened.set(wide, bits);
      to.replace(out, wide);
    } else if (rounds(node, graph.types) && before?.op === 'reshape' && reads[from] === 1) {
      to.replace(out, moved(before, castLike(to, node, to.map(before.inputs[0]), graph.types[out].dtype), to));
    } else {
      to.keep(node);
      if (widens(node, graph.types)) widened.set(to.map(out), to.map(from));
    }
  });
}
