// The passes that every graph goes through before lowering. The result is verified. If it is wrong, the passes run
// again, each verified, so that the error names the pass that failed.
import type { Graph } from '../graph/graph.ts';
import type { OpTable } from '../graph/builder.ts';
import { verifyStages } from '../graph/verify.ts';
import { clampCounts } from './clamp-counts.ts';
import { shareEqualNodes } from './cse.ts';
import { dropDeadCode } from './dce.ts';
import { foldConstants } from './fold.ts';
import { narrowMoves } from './narrow-moves.ts';
import { ownBefore } from './own-before.ts';
import { ownResults } from './own-results.ts';
import { splitLongSums } from './split-sums.ts';

const PASSES: readonly { readonly name: string; run(graph: Graph, ops: OpTable): Graph }[] = [
  { name: 'fold constants', run: foldConstants },
  { name: 'narrow moves', run: narrowMoves },
  { name: 'share equal nodes', run: shareEqualNodes },
  { name: 'split long sums', run: splitLongSums },
  { name: 'drop dead code', run: dropDeadCode },
  { name: 'own results', run: ownResults },
  { name: 'own before', run: ownBefore },
  { name: 'clamp counts', run: clampCounts },
];

/** The graph after each pass. */
export function afterEachPass(graph: Graph, ops: OpTable): { readonly name: string; readonly graph: Graph }[] {
  let now = graph;
  return PASSES.map(({ name, run }) => ({ name, graph: (now = run(now, ops)) }));
}

export const optimise = (graph: Graph, ops: OpTable): Graph =>
  verifyStages(
    graph,
    ops,
    PASSES.map(({ name, run }) => ({ name, run: (g) => run(g, ops) })),
  );
