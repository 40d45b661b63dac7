// Evaluates a graph on one process and on several ranks, in the float64 reference, with the same values.
import { elements } from '../../src/base/shape.ts';
import type { Graph, GraphInput } from '../../src/graph/graph.ts';
import { ops } from '../../src/graph/ops/index.ts';
import { overRanks } from '../../src/passes/ranks/over-ranks.ts';
import { RANK, slotsName } from '../../src/passes/ranks/forms.ts';
import { evaluate, evaluateRanks } from '../../src/run/reference.ts';

/** A result of the global graph, and what each rank has in its place. */
export interface Compared {
  readonly name: string;
  readonly whole: Float64Array;
  readonly ranks: readonly Float64Array[];
}

/**
 * feed: the value of an input of the global graph. slots: for each number of experts, the expert in each slot. What
 * ranks have of a state that is divided by expert is compared with that part.
 */
export function onRanks(
  graph: Graph,
  ranks: number,
  feed: (input: GraphInput, size: number) => Float64Array,
  slots: (experts: number) => readonly number[],
): { readonly local: Graph; readonly results: readonly Compared[] } {
  const local = overRanks(graph, ops, ranks),
    values = new Map<string, Float64Array>();
  const valueOf = (input: GraphInput): Float64Array => {
    const key = `${input.kind} ${input.name}`,
      made = values.get(key) ?? feed(input, elements(graph.types[input.value].shape));
    values.set(key, made);
    return made;
  };
  /** The rows of a bank that lie on a rank. */
  const bankPart = (all: Float64Array, experts: number, rank: number): Float64Array => {
    const each = all.length / experts,
      own = experts / ranks;
    return Float64Array.from(
      { length: own * each },
      (_, i) => all[slots(experts)[rank * own + Math.floor(i / each)] * each + (i % each)],
    );
  };
  const partOf = (all: Float64Array, size: number, experts: number | null, rank: number): Float64Array => {
    if (size === all.length) return all;
    return experts === null ? all.slice(rank * size, (rank + 1) * size) : bankPart(all, experts, rank);
  };
  const expertsOf = (name: string): number | null => {
    const input = local.inputs.find((i) => i.kind === 'state' && i.name === name),
      type = input && local.types[input.value];
    return type?.axes?.[0] === 'expert' ? Number(type.shape[0]) * ranks : null;
  };
  const one = evaluate(graph, ops, valueOf);
  const many = evaluateRanks(
    local,
    ops,
    Array.from({ length: ranks }, (_, rank) => (input: GraphInput): Float64Array => {
      const size = elements(local.types[input.value].shape);
      if (input.name === RANK) return Float64Array.of(rank);
      if (input.name === slotsName(size)) return Float64Array.from(slots(size));
      const all = valueOf({
        ...input,
        value: graph.inputs.find((i) => i.kind === input.kind && i.name === input.name)?.value ?? -1,
      });
      return partOf(all, size, input.kind === 'state' ? expertsOf(input.name) : null, rank);
    }),
  );
  const nameOf = (state: number): string => graph.inputs.find((i) => i.value === state)?.name ?? '';
  const outputs = graph.outputs.map(({ name, value }, i): Compared => ({
    name,
    whole: one[value],
    ranks: many.map((own) => own[local.outputs[i].value]),
  }));
  const updates = graph.updates.flatMap(({ state, value }, i) =>
    many.map((own, rank): Compared => {
      const made = own[local.updates[i].value],
        name = nameOf(state);
      return { name, whole: partOf(one[value], made.length, expertsOf(name), rank), ranks: [made] };
    }),
  );
  return { local, results: [...outputs, ...updates] };
}
