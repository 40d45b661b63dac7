// What the compiler does for many ranks, which only this device has: the graph of a rank, the order of its exchanges,
// and their division into a begin and a wait.
import { hideExchanges } from '../../lower/hide-exchanges.ts';
import { timeOf } from '../../lower/times.ts';
import { overRanks } from '../../passes/ranks/over-ranks.ts';
import { divideExchanges } from '../../plan/exchanges.ts';
import type { RankStages } from '../../schedule/target.ts';

export const rankStages = (ranks: number): RankStages => ({
  graph: (graph, ops) => overRanks(graph, ops, ranks),
  exchanges: { timeOf, hide: hideExchanges },
  divide: divideExchanges,
});
