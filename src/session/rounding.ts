// What a session with 16-bit floats stores in 16 bits. In: the graph of a forward pass; out: the same graph with casts
// where its precision rounds. Sessions in float32 do not need it (extras.ts).
import type { Graph } from '../graph/graph.ts';
import { ops } from '../graph/ops/index.ts';
import { roundActivations, roundSaved } from '../passes/round-activations.ts';
import { storeStates } from '../passes/store-states.ts';
import type { Named } from '../trace/module.ts';
import type { Precision } from './platform.ts';
import { storedDtype } from './precision.ts';

/** The graph with its states in the dtypes in which memory holds them. */
export const withStates = (graph: Graph, named: Named, precision: Precision): Graph =>
  precision === 'bfloat16-weights' ? storeStates(graph, (state) => storedDtype(named, precision, state)) : graph;

/** The graph of a training step, with what it saves for gradients rounded as `precision` says. */
export const withSaved = (graph: Graph, precision: Precision): Graph =>
  precision === 'float32' ? graph : roundSaved(graph, ops);

/** The forward graph with its activations rounded as `precision` says. */
export function withActivations(graph: Graph, { parameters }: Named, precision: Precision): Graph {
  if (precision === 'float32') return graph;
  const routers = new Set(
    [...parameters].flatMap(([name, { role }]) =>
      role === 'router' ? [name.slice(0, Math.max(0, name.lastIndexOf('.')))] : [],
    ),
  );
  return roundActivations(graph, ops, {
    dtype: 'bfloat16',
    exact: (scope) => routers.has(scope),
    isParameter: (name) => parameters.has(name),
  });
}
