// What a session stores in 16 bits. In: the graph of a forward pass; out: the same graph with casts where its
// precision rounds.
import type { DType } from '../base/dtype.ts';
import type { Graph } from '../graph/graph.ts';
import { ops } from '../graph/ops/index.ts';
import type { Role } from '../graph/state.ts';
import { momentOf } from '../optim/updates.ts';
import { roundActivations, roundSaved } from '../passes/round-activations.ts';
import { storeStates } from '../passes/store-states.ts';
import type { Precision } from './platform.ts';
import type { Named } from '../trace/module.ts';

/** Roles of the parameters that 'bfloat16-weights' stores in bfloat16; biases, gains and routers stay float32. */
const STORED: readonly Role[] = ['weight', 'embedding', 'head'];

/**
 * The dtype in which a session stores a state: that of the parameter, or bfloat16 as `precision` says. Null for a state
 * that belongs to no parameter.
 */
export function storedDtype(
  { parameters }: Pick<Named, 'parameters'>,
  precision: Precision | undefined,
  state: string,
): DType | null {
  const moment = momentOf(state),
    parameter = parameters.get(moment?.parameter ?? state);
  if (!parameter) return null;
  const { dtype, role } = parameter;
  return precision === 'bfloat16-weights' && dtype === 'float32' && STORED.includes(role) ? 'bfloat16' : dtype;
}

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
