// Finds the samples of a batch in the values of a graph. In: a graph whose inputs carry the axis `batch`. Out: for each
// value, the dimension that goes over the samples, and how many of its elements belong to a sample. A value that an op
// makes of which nothing is known has none, for example the rows of experts.
import { sameDim, sizes, type TensorType } from '../base/shape.ts';
import type { OpTable } from '../graph/builder.ts';
import type { Attrs, Graph, Node, ValueId } from '../graph/graph.ts';
import type { OpName } from '../graph/op-attrs.ts';

export interface Samples {
  readonly dim: number;
  /** Elements `each` s to `each` (s + 1) - 1 of the dimension belong to sample s. */
  readonly each: number;
}

/** By value; null where none are known. */
export function findSamples(graph: Graph, ops: OpTable): (Samples | null)[] {
  const found = new Array<Samples | null>(graph.types.length).fill(null);
  for (const { value } of graph.inputs) {
    const dim = graph.types[value].axes?.indexOf('batch') ?? -1;
    if (dim >= 0) found[value] = { dim, each: 1 };
  }
  for (const node of graph.nodes)
    for (const out of node.outputs) found[out] = samplesOf(node, out, found, graph.types, ops);
  return found;
}

/** The samples of a node's result; null where none are known. found: those of its inputs. */
export function samplesOf(
  node: Node,
  out: ValueId,
  found: readonly (Samples | null)[],
  types: readonly TensorType[],
  ops: OpTable,
): Samples | null {
  const all = node.inputs.flatMap((v, i) => {
    const own = found[v];
    return (own && through(node, i, own, types, out, ops)) ?? [];
  });
  // Values that disagree are no samples of one batch.
  return all.length > 0 && all.every((s) => s.dim === all[0].dim && s.each === all[0].each) ? all[0] : null;
}

/** The samples of a result, as those of input `i` give them. */
function through(
  { op, attrs, inputs }: Node,
  i: number,
  own: Samples,
  types: readonly TensorType[],
  out: ValueId,
  ops: OpTable,
): Samples | null {
  const type = types[inputs[i]],
    to = types[out],
    at = (dim: number): Samples => ({ dim, each: own.each }),
    axes = (attrs['axes'] ?? []) as readonly number[];
  switch (op) {
    case 'reshape':
      return reshaped(own, type, to);
    case 'transpose':
      return at((attrs['order'] as readonly number[]).indexOf(own.dim));
    case 'expand':
      return i === 1 ? own : at(to.shape.map((_, d) => d).filter((d) => !axes.includes(d))[own.dim]);
    case 'sum':
    case 'max':
      return axes.includes(own.dim) ? null : at(own.dim - axes.filter((a) => a < own.dim).length);
    case 'concat':
    case 'slice':
    case 'pad':
    case 'flip':
      return attrs['axis'] === own.dim ? null : own;
    case 'gather':
      return i === 1 ? own : null;
    case 'matmul': {
      const last = type.shape.length - 1,
        depth = (i === 0 ? attrs['transA'] === true : attrs['transB'] !== true) ? last - 1 : last;
      if (own.dim === depth) return null;
      return own.dim < last - 1 ? own : at(i === 0 ? last - 1 : last);
    }
    default: {
      const record = ops.get(op);
      if (record?.elementwise) {
        const dim = own.dim + to.shape.length - type.shape.length;
        return sameDim(to.shape[dim], type.shape[own.dim]) ? at(dim) : null;
      }
      const same = record?.keepsRows && own.dim === 0 && to.shape.length > 0 && !mixesRows(op, attrs, types[inputs[0]]);
      return same && sameDim(to.shape[0], type.shape[0]) ? own : null;
    }
  }
}

/** Whether an op that computes along an axis, the last one if it names none, does so along the first dimension. */
const mixesRows = (op: string, { axis }: Attrs, { shape }: TensorType): boolean =>
  axis === undefined ? shape.length === 1 && ALONG_LAST.has(op) : axis === 0;
const ALONG_LAST: ReadonlySet<string> = new Set<OpName>([
  'argMax',
  'layerNorm',
  'logSumExp',
  'rmsNorm',
  'softmax',
  'topK',
]);

/** The dimension of the result that begins at the same element and holds whole samples. */
function reshaped({ dim, each }: Samples, from: TensorType, to: TensorType): Samples | null {
  const product = (list: readonly number[]): number => list.reduce((n, d) => n * d, 1),
    old = sizes(from.shape),
    now = sizes(to.shape),
    before = product(old.slice(0, dim)),
    sample = each * product(old.slice(dim + 1)),
    samples = old[dim] / each;
  for (const [d, size] of now.entries()) {
    const own = sample / product(now.slice(d + 1));
    if (product(now.slice(0, d)) === before && Number.isInteger(own) && own > 0 && own * samples === size)
      return { dim: d, each: own };
  }
  return null;
}
