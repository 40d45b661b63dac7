// What a session stores in 16 bits. In: the graph of a forward pass; out: the same graph with casts where its
// precision rounds.
import type { Graph } from '../graph/graph.ts';
import { ops } from '../graph/ops/index.ts';
import { roundActivations, roundSaved } from '../passes/round-activations.ts';
import type { Named } from '../trace/module.ts';

export const PRECISIONS = ['float32', 'bfloat16', 'bfloat16-weights'] as const;
/**
 * float32: everything. bfloat16: activations, and what is saved for gradients, are stored in bfloat16; parameters in
 * float32. bfloat16-weights: weights, embeddings, heads and their moments too; their updates are rounded
 * stochastically. In all of them sums, routers, softmax, norms and losses are computed in float32.
 */
export type Precision = (typeof PRECISIONS)[number];

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
  return roundActivations(graph, ops, 'bfloat16', (scope) => routers.has(scope));
}
