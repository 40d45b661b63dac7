// Sums over the samples of a batch into gradients of shared parameters become sums in parts (base/parts.ts): their bits
// then do not depend on how many ranks compute them. In: a graph with gradients. The pass goes from each gradient back
// to the ops that sum over samples, and no further. Of parameters whose first dimension carries the axis `expert`, each
// part belongs to one rank: their sums stay as they are. docs/architecture/parts.md says what stays as it is.
import type { TensorType } from '../base/shape.ts';
import type { Parts } from '../base/parts.ts';
import { producers, type Graph, type Node, type ValueId } from '../graph/graph.ts';
import type { OpTable } from '../graph/builder.ts';
import { scatterAddParts } from '../graph/ops/shape/scatterAddParts.ts';
import { builderOf, rebuild, type Rebuild } from './rebuild.ts';
import { findSamples, type Samples } from './samples.ts';

/** `forward`: so many nodes are those of the model; sums of the model itself stay as they are. */
export function sumInParts(graph: Graph, ops: OpTable, forward: number, parts: number): Graph {
  if (parts <= 1) return graph;
  const samples = findSamples(graph, ops),
    made = producers(graph),
    own = new Set(graph.nodes.slice(forward).filter((n) => !n.recompute)),
    cut = new Map<Node, Parts>(),
    seen = new Set<ValueId>();
  const visit = (v: ValueId): void => {
    const node = made[v];
    if (seen.has(v) || !node || !own.has(node) || samples[v]) return;
    seen.add(v);
    const sample = sampleOf(node, samples, graph.types);
    if (sample === null) node.inputs.forEach(visit);
    else cut.set(node, { parts, sample });
  };
  for (const { name, value } of graph.outputs)
    if (name.startsWith('grad/') && !isBank(graph, name.slice('grad/'.length))) visit(value);
  if (cut.size === 0) return graph;
  return rebuild(graph, (node, to) => {
    const how = cut.get(node);
    if (!how) to.keep(node);
    else if (node.op === 'sum') cutSum(node, how, graph.types, samples, to);
    else if (node.op === 'scatterAdd') cutScatter(node, how, ops, to);
    else to.keep({ ...node, attrs: { ...node.attrs, ...how } });
  });
}

/** Whether a state is a bank of experts. */
export const isBank = (graph: Graph, name: string): boolean =>
  graph.inputs.some((i) => i.kind === 'state' && i.name === name && graph.types[i.value].axes?.[0] === 'expert');

/**
 * How many elements of the summed range belong to a sample, if a node sums over samples and the sum can be cut: the
 * range begins with the dimension of the samples. Otherwise null.
 */
function sampleOf(
  { op, inputs, attrs }: Node,
  samples: readonly (Samples | null)[],
  types: readonly TensorType[],
): number | null {
  const at = (i: number, dim: number): number | null => {
    const found = samples[inputs[i]];
    return found?.dim === dim ? found.each : null;
  };
  switch (op) {
    case 'matmul': {
      const last = types[inputs[0]].shape.length - 1,
        a = at(0, attrs['transA'] === true ? last - 1 : last),
        b = at(1, attrs['transB'] === true ? last : last - 1);
      return a !== null && b !== null && a !== b ? null : (a ?? b);
    }
    case 'sum': {
      const found = samples[inputs[0]];
      return found && (attrs['axes'] as readonly number[]).includes(found.dim) ? at(0, found.dim) : null;
    }
    case 'scatterAdd':
      return at(0, 0);
    case 'conv2dGradWeight':
    case 'depthwise2dGradWeight':
      return at(0, 0) ?? at(1, 0);
    default:
      return null;
  }
}

/** The sum over samples comes first, if other axes are summed beside it in an order of their own. */
function cutSum(
  node: Node,
  how: Parts,
  types: readonly TensorType[],
  samples: readonly (Samples | null)[],
  to: Rebuild,
): void {
  const [x] = node.inputs,
    { shape, dtype } = types[x],
    axes = node.attrs['axes'] as readonly number[],
    dim = samples[x]?.dim ?? 0,
    trailing = axes[axes.length - 1] === shape.length - 1;
  if (axes.length === 1 || (axes[0] === dim && !trailing)) {
    to.keep({ ...node, attrs: { ...node.attrs, ...how } });
    return;
  }
  const first: TensorType = { dtype, shape: to.mapped(x).shape.filter((_, d) => d !== dim) },
    rest = axes.filter((a) => a !== dim).map((a) => (a > dim ? a - 1 : a));
  const inner = to.make('sum', [to.map(x)], { axes: [dim], ...how }, [first], node.scope);
  to.replace(node.outputs[0], to.make('sum', [inner], { axes: rest }, [to.mapped(node.outputs[0])], node.scope));
}

/** The indices are sorted by row, so that a row of the table need not go through all of them. */
function cutScatter(node: Node, how: Parts, ops: OpTable, to: Rebuild): void {
  const builder = builderOf(to, ops, node),
    [index, rows, like] = node.inputs.map((v) => builder.tensor(to.map(v)));
  to.replace(node.outputs[0], scatterAddParts(index, rows, like, how).id);
}
