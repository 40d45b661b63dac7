// Stores states in 16 bits. Kernels read them as float32; new values are rounded stochastically, by random words for
// (seed, name of the state, step, element). In: a graph of float32 states, and which of them have another dtype in
// memory; out: the graph with casts. It is the last stage before the passes of `optimise`, so that gradients and
// updates are computed in float32.
import type { DType } from '../base/dtype.ts';
import { hash32 } from '../base/hash.ts';
import type { Graph, GraphInput, Node, Update, ValueId } from '../graph/graph.ts';
import { ownerOf } from '../optim/updates.ts';

/** `stored`: the dtype of a state in memory; null: that of the graph. */
export function storeStates(graph: Graph, stored: (name: string) => DType | null): Graph {
  const types = [...graph.types],
    nodes: Node[] = [],
    inputs: GraphInput[] = [...graph.inputs];
  const make = (op: string, from: readonly ValueId[], attrs: Node['attrs'], type: Graph['types'][number]): ValueId => {
    const value = types.push(type) - 1;
    nodes.push({ op, inputs: from, outputs: [value], attrs, scope: 'optim' });
    return value;
  };
  /** The float32 form of each such state keeps the number that nodes read; memory gets a new number. */
  const memoryOf = new Map<ValueId, { readonly value: ValueId; readonly name: string; readonly dtype: DType }>();
  for (const [at, { kind, name, value }] of graph.inputs.entries()) {
    const dtype = kind === 'state' ? stored(name) : null;
    if (dtype === null || dtype === types[value].dtype) continue;
    const memory = types.push({ ...types[value], dtype }) - 1;
    inputs[at] = { ...graph.inputs[at], value: memory };
    memoryOf.set(value, { value: memory, name, dtype });
    nodes.push({ op: 'cast', inputs: [memory], outputs: [value], attrs: { dtype: 'float32' }, scope: '' });
  }
  if (memoryOf.size === 0) return graph;
  nodes.push(...graph.nodes);
  const word = (name: string): ValueId => {
    const found = inputs.find((i) => i.kind === 'input' && i.name === name);
    if (found) return found.value;
    const value = types.push({ dtype: 'uint32', shape: [] }) - 1;
    inputs.push({ kind: 'input', name, value });
    return value;
  };
  /** How many states of a parameter were rounded: two share a random word. */
  const counts = new Map<string, number>();
  const updates = graph.updates.map((update): Update => {
    const memory = memoryOf.get(update.state);
    if (!memory) return update;
    const { name, dtype } = memory,
      owner = ownerOf(name) ?? name,
      n = counts.get(owner) ?? 0;
    counts.set(owner, n + 1);
    const type = types[update.value],
      attrs = { key: hash32(`rounding of ${owner} ${Math.floor(n / 2)}`), half: n % 2 };
    const rounded = make('roundStochastic', [update.value, word('seed'), word('step')], attrs, type);
    return { ...update, state: memory.value, value: make('cast', [rounded], { dtype }, { ...type, dtype }) };
  });
  return { ...graph, types, nodes, inputs, updates };
}
