// Reverse-mode differentiation of a Graph: appends the nodes that compute the gradients of one scalar output. The
// gradient of a value that is used several times is the sum over its uses, in the order of the reversed graph.
import { isFloat } from '../base/dtype.ts';
import { rounds, widens } from '../graph/rounding.ts';
import { UserError, VerifyError } from '../base/errors.ts';
import { GraphBuilder, type OpTable } from '../graph/builder.ts';
import type { Recompute, Graph, Node, ValueId } from '../graph/graph.ts';
import type { Op } from '../graph/op.ts';
import { scalar, zeros, type Tensor } from '../graph/tensor.ts';

/** The graph with outputs `grad/NAME`: the gradients of the output `loss` for the states `names`. */
export function differentiate(graph: Graph, ops: OpTable, loss: string, names: readonly string[]): Graph {
  const builder = GraphBuilder.resume(graph, ops);
  const target = graph.outputs.find((o) => o.name === loss);
  if (!target) throw new VerifyError('differentiate', `the graph has no output ${loss}`);
  const states = names.map((name) => {
    const input = graph.inputs.find((i) => i.kind === 'state' && i.name === name);
    if (!input) throw new VerifyError('differentiate', `the graph has no state ${name}`);
    return builder.tensor(input.value);
  });
  gradients(builder, builder.tensor(target.value), states).forEach((g, i) => {
    // If the loss does not depend on a parameter, its gradient is 0; weight decay still applies.
    builder.output(`grad/${names[i]}`, g ?? zeros(states[i]));
  });
  return builder.build();
}

/** One term of a gradient, and what gave it: an op, and the time of differentiation at which its node was made. */
interface Part {
  readonly value: Tensor;
  readonly by: string;
}

/**
 * The gradients of `loss` (a float scalar of `builder`'s graph) for `wrt`; null where the loss does not depend on a
 * value.
 */
export function gradients(builder: GraphBuilder, loss: Tensor, wrt: readonly Tensor[]): (Tensor | null)[] {
  if (loss.shape.length !== 0 || !isFloat(loss.dtype)) {
    throw new UserError(`a loss must be one float number, got ${loss.toString()}`, 'take the mean over the batch');
  }
  const forward = [...builder.nodes],
    outer = builder.scope;
  const needs = dependents(
    builder,
    wrt.map((t) => t.id),
  );
  const one = scalar(loss, 1);
  const grads = new Map<ValueId, Part[]>([[loss.id, [{ value: one, by: '' }]]]),
    recomputed = recompute(builder, [...forward]);
  const total = (v: ValueId): Tensor | null => {
    const parts = grads.get(v);
    if (!parts) return null;
    const sum = parts.map((p) => p.value).reduce((a, b) => builder.emit('add', [a, b])[0]);
    grads.set(v, [{ value: sum, by: '' }]);
    return sum;
  };
  /** Takes the term that `by` gave out of a gradient. */
  const take = (v: ValueId, by: string): Tensor | null => {
    const parts = grads.get(v) ?? [],
      found = parts.find((p) => p.by === by),
      rest = parts.filter((p) => p !== found);
    if (rest.length > 0) grads.set(v, rest);
    else grads.delete(v);
    return found?.value ?? null;
  };
  const rounded = roundedForms(forward, builder);
  for (const node of forward.reverse()) {
    if (!node.outputs.some((v) => grads.has(v)) || !node.inputs.some((v) => needs.has(v))) continue;
    const op = builder.ops.get(node.op);
    if (!op?.grad) throw noRule(node, op);
    builder.scope = node.scope && `${node.scope}:grad`;
    const { at, notBefore } = recomputed(node);
    builder.notBefore = notBefore;
    const inputs = node.inputs.map((v) => builder.tensor(at(v)));
    const by = `${node.op}/${node.recompute?.time ?? ''}`;
    const got = op.grad({
      inputs,
      outputs: node.outputs.map((v) => builder.tensor(at(rounded.get(v) ?? v))),
      attrs: node.attrs,
      douts: node.outputs.map(total),
      needs: node.inputs.map((v) => needs.has(v)),
      takeAccumulatedGrad: (i, of = 'all') => {
        const v = node.inputs[i];
        if (of === 'alike') return take(v, by);
        total(v);
        return take(v, '');
      },
    });
    if (got.length !== inputs.length)
      throw new VerifyError('differentiate', `${node.op} has ${inputs.length} inputs and ${got.length} gradients`);
    got.forEach((g, i) => {
      if (!g || !needs.has(node.inputs[i])) return;
      grads.set(node.inputs[i], [...(grads.get(node.inputs[i]) ?? []), { value: g, by }]);
    });
  }
  builder.scope = outer;
  builder.notBefore = undefined;
  return wrt.map((t) => total(t.id));
}

/**
 * Results that are read only in a rounded form (passes/round-activations.ts), and that form: memory holds it, so that
 * gradients too read it and not the result.
 */
function roundedForms(forward: readonly Node[], builder: GraphBuilder): Map<ValueId, ValueId> {
  const { types } = builder,
    reads = new Map<ValueId, number>(),
    found = new Map<ValueId, ValueId>();
  const roundings = new Map(forward.filter((n) => rounds(n, types)).map((n) => [n.outputs[0], n.inputs[0]]));
  if (roundings.size === 0) return found;
  for (const v of forward.flatMap((n) => n.inputs)) reads.set(v, (reads.get(v) ?? 0) + 1);
  for (const node of forward) {
    const of = widens(node, types) ? roundings.get(node.inputs[0]) : undefined;
    if (of !== undefined && reads.get(of) === 1 && types[of].dtype === 'float32') found.set(of, node.outputs[0]);
  }
  return found;
}

/**
 * Where the gradient of a node finds the values that the node reads and makes, and Node.notBefore of the gradient's
 * nodes.
 */
interface Found {
  at(v: ValueId): ValueId;
  readonly notBefore?: number;
}

/**
 * Recomputes a part of the graph whose values are not kept: all of it, when the first value is needed. A part inside
 * another part is recomputed from the copies that the outer part has made; these copies serve the outer part alone.
 */
function recompute(builder: GraphBuilder, forward: readonly Node[]): (node: Node) => Found {
  const made = new Map<number, Found>(),
    time = forward.length,
    kept: Found = { at: (v) => v };
  const isIn = (part: number, again: Recompute | undefined): boolean =>
    again !== undefined && (again.part === part || isIn(part, again.within));
  const copy = (part: number, outer: Found): Found =>
    builder.recomputed(() => {
      const notBefore = (builder.notBefore = builder.nodes.length),
        copies = new Map<ValueId, ValueId>(),
        at = (v: ValueId): ValueId => copies.get(v) ?? outer.at(v);
      for (const n of forward.filter((f) => isIn(part, f.recompute))) {
        const outputs = builder.emit(
          n.op,
          n.inputs.map((v) => builder.tensor(at(v))),
          n.attrs,
        );
        n.outputs.forEach((v, i) => copies.set(v, outputs[i].id));
      }
      return { at, notBefore };
    }, time);
  const find = (again: Recompute | undefined): Found => {
    if (!again) return kept;
    const found = made.get(again.part) ?? copy(again.part, find(again.within));
    made.set(again.part, found);
    return found;
  };
  return ({ recompute }) => find(recompute);
}

/**
 * Values that depend on `sources` through float values. Integers, bools, and inputs of which an op reads only the type,
 * carry no gradient.
 */
function dependents({ nodes, ops, types }: GraphBuilder, sources: readonly ValueId[]): Set<ValueId> {
  const found = new Set(sources);
  for (const { op, inputs, outputs } of nodes) {
    const unread = ops.get(op)?.unread ?? [];
    if (!inputs.some((v, i) => found.has(v) && !unread.includes(i))) continue;
    for (const v of outputs) if (isFloat(types[v].dtype)) found.add(v);
  }
  return found;
}

/**
 * The error for an op without a gradient rule on the way to the loss: to treat its result as a constant would silently
 * give a wrong gradient.
 */
function noRule({ op: name, scope }: Node, op: Op | undefined): UserError {
  return new UserError(
    `${name}${scope ? ` in ${scope}` : ''} has no gradient rule, and the loss depends on its ` +
      `result${op?.noGrad ? `: ${op.noGrad}` : ''}`,
    'where no gradient is meant to flow, say so with ops.stopGradient',
  );
}
