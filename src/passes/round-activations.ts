// Writes into a forward graph where activations are rounded to 16 bits: to bfloat16 or float16 and back to float32.
// Memory then holds the 16 bits, for the next layer and for gradients, and kernels compute in float32. The pass runs
// before differentiation: gradients are then rounded where their values are (the gradient of a cast is a cast), and a
// part that is recomputed is rounded as it was the first time. Lowering decides about no rounding.
//
// Rounded are results of ops that make activations (Op.activations: products, attention, norms, combined rows) where
// another such op reads them, also through elementwise ops; and elementwise results that such an op reads directly.
// So the inputs of softmax, of sums and of losses stay float32, and so does what is computed inside a router.
import type { DType } from '../base/dtype.ts';
import type { HalfDType } from '../base/half.ts';
import type { Graph, Node, ValueId } from '../graph/graph.ts';
import type { OpTable } from '../graph/builder.ts';
import { widens } from '../graph/rounding.ts';
import { castLike, rebuild, type Rebuild } from './rebuild.ts';

export interface Rounding {
  readonly dtype: HalfDType;
  /** Whether the values that the module with this path computes stay float32. */
  readonly exact: (scope: string) => boolean;
  /** Whether a state of this name is a parameter. What follows from parameters alone is not rounded. */
  readonly isParameter: (state: string) => boolean;
}

export function roundActivations(graph: Graph, ops: OpTable, { dtype, exact, isParameter }: Rounding): Graph {
  const given = graph.inputs.filter((i) => i.kind === 'input' || (i.kind === 'state' && !isParameter(i.name))),
    rounded = roundedValues(graph, ops, new Set(given.map((i) => i.value)), exact);
  return rebuild(graph, (node, to) => {
    to.keep(node);
    for (const v of node.outputs) if (rounded.has(v)) round(node, v, to, dtype);
  });
}

/**
 * After differentiation: rounds what ops make for gradients alone (Op.savedForGradients) where their input is rounded,
 * as that is, also if it was moved since.
 */
export function roundSaved(graph: Graph, ops: OpTable): Graph {
  /** The 16-bit dtype that a widened value was rounded to. */
  const dtypes = new Map<ValueId, DType>();
  return rebuild(graph, (node, to) => {
    to.keep(node);
    const [from, ...others] = node.inputs,
      [v] = node.outputs,
      op = ops.get(node.op),
      dtype = widens(node, graph.types) ? graph.types[from].dtype : dtypes.get(from);
    if (!dtype) return;
    const moved = op?.moves === 'first' || (op?.moves === 'all' && others.every((o) => dtypes.get(o) === dtype));
    if (moved || widens(node, graph.types)) node.outputs.forEach((out) => dtypes.set(out, dtype));
    else if (op?.savedForGradients) round(node, v, to, dtype);
  });
}

function round(node: Node, v: ValueId, to: Rebuild, dtype: DType): void {
  const wide = to.map(v);
  to.replace(v, castLike(to, node, castLike(to, node, wide, dtype), to.typeOf(wide).dtype));
}

/** The float32 values that are rounded where they are made. given: what is no parameter and no constant. */
function roundedValues(
  graph: Graph,
  ops: OpTable,
  given: ReadonlySet<ValueId>,
  exact: (scope: string) => boolean,
): Set<ValueId> {
  /** Values that follow from what is given: others are weights. */
  const data = new Set(given);
  for (const node of graph.nodes) if (node.inputs.some((v) => data.has(v))) node.outputs.forEach((v) => data.add(v));
  /** Values that an op reads as activations: at once (or only moved), or through elementwise ops. */
  const read = new Set<ValueId>(),
    leads = new Set<ValueId>(),
    rounded = new Set<ValueId>();
  for (const node of [...graph.nodes].reverse()) {
    if (exact(node.scope)) continue;
    const op = ops.get(node.op);
    const { inputs = [], outputs = [] } = op?.activations ?? {};
    const may = (v: ValueId): boolean => graph.types[v].dtype === 'float32' && data.has(v);
    node.outputs.forEach((v, i) => {
      const makes = outputs.includes(i) ? leads.has(v) || read.has(v) : op?.elementwise !== undefined && read.has(v);
      if (makes && may(v)) rounded.add(v);
    });
    node.inputs.forEach((v, i) => {
      if (inputs.includes(i)) read.add(v);
      passOn(node, v, i);
    });
  }
  return rounded;

  /** What readers of a result do with it, they do with the values that it was moved or computed from. */
  function passOn({ op: name, outputs }: Node, v: ValueId, i: number): void {
    const op = ops.get(name),
      isRead = outputs.some((out) => read.has(out)),
      doesLead = outputs.some((out) => leads.has(out));
    if (op?.moves === 'all' || (op?.moves === 'first' && i === 0)) {
      if (isRead) read.add(v);
      if (doesLead) leads.add(v);
    } else if (op?.elementwise !== undefined && (isRead || doesLead)) leads.add(v);
  }
}
